"""From a specification to a finished folder.

``spec``: what one run is asked to do, which ``request`` makes of a person's words; ``registry``: named runs of a YAML
file, which ``named`` finds for a person; ``changes``: what ``--set`` says of a run. ``plan`` finds and validates
components, then makes prompts (``held_out``: those that only the selector sees; ``kept_prompts``: of an earlier run on
the same model and data), selection, controls and conditions. ``execute`` runs the conditions part by part and writes
the folder (``shared_passes``: those of several runs at once; ``fitting``: with as many prompts in a pass as fit);
``record`` makes the record. ``executors`` have that done for many runs, past one that cannot be made: ``here``, in
this process, or by workers elsewhere, which a ``driver`` gives ``orders`` and takes ``messages`` from; ``working``:
what these do meanwhile. ``stopping``: Ctrl-C and SIGTERM; ``environment``: what libraries read of it. ``planning``
tries a handful of control sets before a run, ``outlook`` says what the run would find; ``margins``: whether the
measures that are given a difference that matters are there;
``telling``: who is told of runs.
``expectations``: what so many items can show at best, ``forecast``: what a run finds, told before it begins.
``positions``: whether a task has the tokens that an intervention names.
``claims``: what finished runs say of papers' claims.
``treatment``: what a model is run under in loops of others.
``arena``: selectors judged by runs under one protocol, which ``contest`` makes of a person's words.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
