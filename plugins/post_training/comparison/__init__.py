"""Two models beside each other: one module for each section of the comparison, the run, and its report."""
