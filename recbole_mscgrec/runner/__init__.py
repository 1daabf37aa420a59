"""One run: data, model, training, evaluation, result."""
