"""How post-training reshapes a model (Du et al., COLM 2025): base and tuned model beside each other."""
