"""Arrays in, scores out: metrics, baselines, the ceiling of noisy labels, intervals, and scores of a whole table."""
