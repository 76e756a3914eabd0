"""Simulations behind the claims of the statistics: rates of errors, coverages, powers (``benchmarks/calibration.py``).

One function a claim. Each takes how many runs to simulate, a random generator and the real control sets, and returns
measured rates beside the promised ones.
"""
