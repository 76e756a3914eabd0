"""Value and query neurons, and value heads, by their log-probability increase."""
