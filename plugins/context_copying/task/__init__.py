"""The knowledge-conflict task: what the model knows, contexts that contradict it, and where an answer comes from."""
