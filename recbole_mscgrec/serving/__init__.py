"""Serving a trained model: the export folder, recommendations from item tokens, an HTTP service."""
