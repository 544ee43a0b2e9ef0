"""Metrics, baselines, the ceiling that noisy labels impose, intervals, and the scores of a whole table."""
