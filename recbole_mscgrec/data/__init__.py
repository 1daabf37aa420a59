"""Data sets: download, checks, time order, tiled rows, seen items."""
