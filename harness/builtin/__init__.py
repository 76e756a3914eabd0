"""Components that belong to no paper (``components``): hub models, texts, neurons and heads by name, scores of
others."""
