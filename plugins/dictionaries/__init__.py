"""Sparse autoencoders and transcoders: latents as units, read from the folders that SAELens saves."""
