"""What ``import harness`` offers, for scripts and notebooks.

``evaluation``: makes runs, one or those of the registry, loads models and registers components of this process; says
what the commands say, and leaves the same files. ``finished``: a run to look at, and all runs of a folder; ``frames``
gives its tables as pandas has them, ``drawing`` its figures as matplotlib has them. ``words``: functions that take the
fields of a request. ``loaded``: a model, and what its neurons do on one's own texts; ``ablating``: conditions from the
names of neurons, ``conditions``: in a person's own loops.
"""
