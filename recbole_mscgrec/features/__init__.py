"""Item features of each modality: from text, images, interactions, or files made elsewhere."""
