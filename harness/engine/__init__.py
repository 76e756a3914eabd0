"""The same prompts under many conditions: ``score`` and ``generate``.

``engine`` has both verbs: prompts and conditions come in, a batch at a time goes to whoever runs the conditions, and
what comes of them is collected in ``scores`` and ``generations``. Both mean one hooked forward pass a condition, which
``hooks`` does literally and is the oracle of the rest; ``live`` has a condition in passes that others make.
``closed_form`` runs the model once where only the last layer is edited (``final_layer``, ``condition_blocks`` and their
``columns``, ``systems``, ``kernels``, ``choosing`` and their compiled ``numba_loops``),
``batched`` many conditions in a pass elsewhere, with the layers below shared (``prefix``). ``tempering`` (with
``tempering_loops``) has the untouched model at every temperature. ``activation_capture`` reads neurons under
conditions, ``activation_summaries`` sums them up, ``watched`` has those of the conditions at the prompts' ends;
``final_norm`` has what the final norm divides by; ``batch_sizes``: how many prompts fit into a pass.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
