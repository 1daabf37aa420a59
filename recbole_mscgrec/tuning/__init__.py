"""Search of settings with Optuna: one study over many trainings, chosen on validation."""
