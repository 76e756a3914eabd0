"""What is run under every condition: plain text, repeated text, and what single components write."""
