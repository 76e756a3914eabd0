"""The contract with plugins.

``hookspecs``: the hooks that a package implements. ``components``: what it offers (model loaders, corpora, selectors,
interventions, tasks, metrics), each a pydantic model whose fields are its parameters; ``notation`` is how they are
written. ``records``: what flows between them (prompts, outcomes, measurements). ``catalogue`` finds and builds them.
Every call of a component goes through ``border``, which names whoever breaks a promise; what is handed over is looked
at in ``handed``, ``handed_selections``, ``handed_edits`` and ``handed_outcomes``. ``standing``: where selected units
stand among the others.
"""
