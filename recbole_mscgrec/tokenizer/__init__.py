"""Turns features into semantic IDs, and makes pages that show which items share a code."""
