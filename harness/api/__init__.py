"""What ``import harness`` offers: runs, their results and models, for scripts and notebooks.

``evaluation``: ``evaluate`` makes a run, ``run`` those of the registry, ``load_model`` a model, ``register`` a
component of this process; they say what the commands say, and leave the same files. ``finished``: a ``Run`` to look
at; ``frames`` gives its tables as pandas has them, ``drawing`` its figures as matplotlib has them.
"""
