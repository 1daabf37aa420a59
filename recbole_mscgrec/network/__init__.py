"""The sequence model: encoder, decoder, constrained loss and constrained beam search."""
