"""A folder of music to a `datasets.DatasetDict` of log-mel spectrograms."""
