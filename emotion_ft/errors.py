"""Errors that the user can mend."""


class UsageError(ValueError):
    """Wrong input: the message says what was expected, what came and what to do; recipes print it and nothing else."""
