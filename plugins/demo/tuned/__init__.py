"""The second bundled model, `demo-tuned`: `demo` after further training (see README.md beside this file)."""
