"""The classes that RecBole finds under its own names."""
