"""Many trainings that belong together: folds, seeds, ablations and searches for hyperparameters."""
