"""Which neurons, or heads: the selectors of the paper, and random ones that resemble a selection."""
