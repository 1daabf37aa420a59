"""From a trained model to recommendations: export, recommend, items added later."""
