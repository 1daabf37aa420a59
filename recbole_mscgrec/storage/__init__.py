"""Atomic file writes, cached stages, checkpoints of plain tensors, locks between processes."""
