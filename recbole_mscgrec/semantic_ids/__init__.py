"""Semantic IDs: residual quantization, code table, collisions, prefix tree, item filters."""
