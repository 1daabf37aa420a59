"""Item-to-item transitions: counted in the train split, without training."""
