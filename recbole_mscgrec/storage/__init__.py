"""Files: written whole or not at all, stages kept between runs, checkpoints of plain tensors."""
