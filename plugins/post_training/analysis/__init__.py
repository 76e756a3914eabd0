"""What is read in one model: directions of labelled texts, the layer that holds them, and patched activations."""
