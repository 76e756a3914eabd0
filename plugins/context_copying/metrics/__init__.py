"""What the conflict task's outcomes come to: transitions, conversion ratios, entropy, log-odds, and their tables."""
