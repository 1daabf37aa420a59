"""Search of settings with Optuna: a study of many trainings, compared on validation."""
