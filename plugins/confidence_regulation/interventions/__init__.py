"""What is done to them, beyond the core's ablations."""
