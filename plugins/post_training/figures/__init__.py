"""Figures of two models, of directions in them, and of what patching restores."""
