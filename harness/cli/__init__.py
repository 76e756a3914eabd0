"""The command line, one file a command.

``main`` turns whatever ends a command into a sentence and an exit code; ``app`` names the commands: ``evaluate``
(``harness eval``), ``run``, ``plan``, ``inspect``, ``unigrams``, ``listing`` (``harness list``), ``claims``, ``arena``,
``report``, ``results`` (those about finished runs: ``leaderboard``, ``compare``, ``schema``), ``view``, ``new_plugin``
the scaffold of a package, ``lm_eval`` those for lm-evaluation-harness. ``options``: what they share, and the options
that a request makes; ``completion``: what shells are offered; ``refusals``: what is said where a command refuses, to
people and to programs; ``making``: the runs of a command; ``plugins``: the components that commands find; ``offered``:
commands of installed packages.
"""
