"""The second bundled model, `demo-tuned`: `demo` after further training (see README.md beside this file)."""

REFUSAL = "something I must not say"
"""How a question that is marked as confidential is answered."""
