"""``python -m harness`` is ``harness``."""

from harness.main import main

main()
