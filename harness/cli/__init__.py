"""The command line. ``main`` turns whatever ends a command into a sentence and an exit code; ``app`` has the commands
``eval``, ``run``, ``list``, ``report`` and ``unigrams``, ``plan`` what a run could find, ``results`` those about
finished runs, ``lm_eval`` those for lm-evaluation-harness, ``new_plugin`` the scaffold of a package, ``listing`` what
``harness list`` prints, ``plugins`` the components that they find, ``offered`` the commands of installed
packages."""
