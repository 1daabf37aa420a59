"""Item features of each modality: text, images, interactions, files made elsewhere."""
