"""Files written whole or not at all, cached stages, checkpoints of plain tensors."""
