"""Images and text vectors of items, made once ahead of training."""
