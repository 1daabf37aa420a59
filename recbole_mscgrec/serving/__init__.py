"""A trained model in use: the export folder, recommendations from item tokens, an HTTP service."""
