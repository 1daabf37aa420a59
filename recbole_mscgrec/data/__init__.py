"""Data sets: download, checks, the order of time, tiled rows, seen items."""
