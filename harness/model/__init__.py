"""A causal language model taken apart, and verified by running it.

In: a folder, a GGUF file, a hub id or a ``transformers`` model. Out: :class:`harness.model.model.Model` (``model``),
whose parts were found by running it and checked numerically, never looked up by its type; ``layer_hooks`` is what it
offers of its layers' insides. ``loading`` makes one, ``wrapping`` of a loaded ``transformers`` model:
``sources`` says where it is, ``gguf_weights`` dequantises, ``checkpoints`` looks at the files, ``adapters`` merges, and
``transformers_calls`` keeps ``transformers`` quiet; ``foreign`` finds the model that another library has wrapped.
``anatomy`` finds its parts (``walks``: what ran in a layer,
``mlps``) and ``probes`` checks them; of mixtures
of experts ``expert_search`` does, ``experts`` are what was found and ``expert_hooks`` reads and edits them; ``readout``
is the final norm and the unembedding, ``matrices`` are those of linear maps, ``quantised`` is about checkpoints whose
weights are packed, ``output_weights`` and ``input_weights`` are what a neuron writes and reads, ``weight_scores`` what
these alone say of it, ``weight_rules`` which neurons papers choose by that; ``places`` are those in a layer beside its
neurons and heads that are read and edited; ``attention_patterns``, ``tokens`` (what every prompt begins with),
``greedy`` (what of a generation configuration is not applied), ``precision`` (half precision and its near-ties),
``digests`` (what identifies weights and tokenizers), ``inspection`` (all of it for a person), ``untouched`` (whether
the model is as it was), ``modules`` and ``key_values`` (what ``transformers`` calls things).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
