"""What is known of an item in each modality: text, images, interactions, files made elsewhere."""
