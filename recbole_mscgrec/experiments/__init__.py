"""Tables over models and seeds."""
