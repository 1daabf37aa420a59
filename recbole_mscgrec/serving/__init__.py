"""A trained model answers: recommendations from an export folder, and an HTTP service for them."""
