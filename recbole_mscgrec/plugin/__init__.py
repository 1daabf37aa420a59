"""The classes that RecBole finds by name: model, trainer, evaluation."""
