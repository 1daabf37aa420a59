"""Experiments: tables over models and seeds."""
