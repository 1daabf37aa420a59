"""Images and text vectors of items, prepared once before training."""
