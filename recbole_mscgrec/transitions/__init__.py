"""Which items follow which: counted in the train split, without training."""
