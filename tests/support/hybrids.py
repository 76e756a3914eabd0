"""Tiny models that are more than a transformer of text: hybrids of attention and other mixers, and models that also see
images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from families import BOS, D_VOCAB, EOS

from harness.testing.tiny_models import filled


@dataclass(frozen=True)
class Kind:
    """A configuration; ``known_as`` is what people call such models."""

    known_as: str
    config: str
    options: dict[str, Any]


_TEXT = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
_WIDE = {**_TEXT, "head_dim": 8}
_DELTA = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
_GRANITE = {
    **_TEXT,
    **_MAMBA2,
    "layer_types": ["mamba", "attention", "mamba"],
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 48,
}
_JAMBA = {
    **_TEXT,
    "num_experts": 1,
    "attn_layer_period": 3,
    "attn_layer_offset": 2,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
}
_LFM2 = {**_WIDE, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False}
_NEMOTRON = {
    **_WIDE,
    "layers_block_type": ["mamba", "mlp", "attention"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "n_groups": 1,
    "ssm_state_size": 8,
    "chunk_size": 8,
}
_QWEN3_NEXT = {
    **_WIDE,
    **_DELTA,
    "num_experts": 0,
    "mlp_only_layers": [0, 1, 2],
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 1,
}
_RECURRENT = {
    **_WIDE,
    "intermediate_size": 96,
    "lru_width": 32,
    "block_types": ["recurrent", "recurrent", "attention"],
    "attention_window_size": 16,
}
_LFM2_MOE = {
    **_WIDE,
    "layer_types": ["conv", "conv", "full_attention"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "num_dense_layers": 1,
}
_ZAMBA2 = {
    **_TEXT,
    "mamba_d_state": 8,
    "mamba_headdim": 16,
    "n_mamba_heads": 4,
    "mamba_ngroups": 1,
    "num_mem_blocks": 1,
    "layers_block_type": ["mamba", "mamba", "hybrid"],
    "adapter_rank": 4,
}
_PER_LAYER = {
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": D_VOCAB,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}
_GEMMA3N = {
    **_WIDE,
    **_PER_LAYER,
    "num_kv_shared_layers": 1,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0, 0.0, 0.0],
    "altup_num_inputs": 2,
}
_BARE = {"vocab_size": D_VOCAB, "hidden_size": 32, "num_hidden_layers": 2}

HYBRIDS = {
    "lfm2": Kind("LFM2", "Lfm2Config", _LFM2),
    "falcon_h1": Kind("Falcon-H1", "FalconH1Config", {**_WIDE, **_MAMBA2, "mamba_d_ssm": 64}),
    "qwen3_next": Kind("Qwen3-Next without experts", "Qwen3NextConfig", _QWEN3_NEXT),
    "qwen3_5": Kind("Qwen3.5, dense", "Qwen3_5TextConfig", {**_WIDE, **_DELTA}),
    "granite_hybrid": Kind("Granite 4 hybrid, dense", "GraniteMoeHybridConfig", _GRANITE),
    "bamba": Kind("Bamba", "BambaConfig", {**_TEXT, **_MAMBA2, "attn_layer_indices": [2]}),
    "jamba": Kind("Jamba without experts", "JambaConfig", _JAMBA),
    "gemma4": Kind("Gemma 4, dense", "Gemma4TextConfig", {**_WIDE, **_PER_LAYER, "num_kv_shared_layers": 0}),
    "gemma3n": Kind("Gemma 3n", "Gemma3nTextConfig", _GEMMA3N),
    "olmo_hybrid": Kind("OLMo hybrid", "OlmoHybridConfig", {**_WIDE, **_DELTA}),
    "recurrent_gemma": Kind("RecurrentGemma", "RecurrentGemmaConfig", _RECURRENT),
    "zamba2": Kind("Zamba2", "Zamba2Config", _ZAMBA2),
    "nemotron_h": Kind("Nemotron-H", "NemotronHConfig", _NEMOTRON),
    "lfm2_moe": Kind("LFM2, mixture of experts", "Lfm2MoeConfig", _LFM2_MOE),
    "mamba": Kind("Mamba", "MambaConfig", {**_BARE, "state_size": 4}),
    "mamba2": Kind(
        "Mamba2",
        "Mamba2Config",
        {**_BARE, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    ),
}

_SEEN = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "num_channels": 3,
}
_QWEN_SEEN = {
    "depth": 1,
    "hidden_size": 16,
    "embed_dim": 16,
    "num_heads": 2,
    "intermediate_size": 24,
    "out_hidden_size": 32,
    "patch_size": 14,
    "num_position_embeddings": 16,
}
_MROPE = {**_WIDE, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}
_DEFAULT_ROPE = {**_WIDE, "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}}


def _of(text: str, seen: str | None, **options: Any) -> dict[str, Any]:
    """A text model and a tower of other families, as Llava joins them."""
    tower = _SEEN if seen is None else {**_SEEN, "model_type": seen}
    return {"text_config": {**_WIDE, "model_type": text}, "vision_config": tower, "image_token_index": 290, **options}


def _pair(text: dict[str, Any], seen: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"text_config": text, "vision_config": seen, **options}


_GEMMA3 = {"mm_tokens_per_image": 4, "image_token_index": 290, "boi_token_index": 291, "eoi_token_index": 292}
_LLAMA4 = {**_WIDE, "intermediate_size_mlp": 48, "num_local_experts": 2, "interleave_moe_layer_step": 1}
_LLAMA4_SEEN = {**_SEEN, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
_MLLAMA_SEEN = {
    **_SEEN,
    "num_global_layers": 1,
    "attention_heads": 2,
    "vision_output_dim": 32,
    "intermediate_layers_indices": [0],
    "supported_aspect_ratios": [[1, 1]],
}
_MLLAMA = {**_WIDE, "cross_attention_layers": [1]}
_QWEN2 = {**_WIDE, "model_type": "qwen2"}
_SQUARE = {**_SEEN, "image_size": [28, 28], "patch_size": [14, 14]}
_DEEP = {**_QWEN_SEEN, "deepstack_visual_indexes": [0]}
_SIGLIP = "siglip_vision_model"

TOWERS = {
    "gemma3": Kind("Gemma 3 (4B and larger)", "Gemma3Config", _pair(_WIDE, _SEEN, **_GEMMA3)),
    "gemma4": Kind("Gemma 4", "Gemma4Config", _pair({**_WIDE, **_PER_LAYER, "num_kv_shared_layers": 0}, _SEEN)),
    "qwen2_vl": Kind("Qwen2-VL", "Qwen2VLConfig", _pair(_MROPE, {**_QWEN_SEEN, "hidden_size": 32})),
    "qwen2_5_vl": Kind("Qwen2.5-VL", "Qwen2_5_VLConfig", _pair(_MROPE, _QWEN_SEEN)),
    "qwen3_vl": Kind("Qwen3-VL", "Qwen3VLConfig", _pair(_DEFAULT_ROPE, _DEEP)),
    "qwen3_5_vl": Kind("Qwen3.5", "Qwen3_5Config", _pair({**_WIDE, **_DELTA}, _QWEN_SEEN)),
    "llava": Kind("Llava", "LlavaConfig", _of("llama", "clip_vision_model")),
    "llava_next": Kind("Llava-NeXT", "LlavaNextConfig", _of("llama", "clip_vision_model")),
    "llava_onevision": Kind("Llava-OneVision", "LlavaOnevisionConfig", _of("qwen2", _SIGLIP)),
    "mistral3": Kind("Mistral Small 3", "Mistral3Config", _of("mistral", "pixtral")),
    "internvl": Kind("InternVL", "InternVLConfig", _pair(_QWEN2, _SQUARE, image_token_id=290)),
    "smolvlm": Kind("SmolVLM", "SmolVLMConfig", _of("llama", None)),
    "idefics3": Kind("Idefics3", "Idefics3Config", _of("llama", None)),
    "aya_vision": Kind("Aya Vision", "AyaVisionConfig", _of("cohere2", _SIGLIP)),
    "lfm2_vl": Kind("LFM2-VL", "Lfm2VlConfig", _pair(_LFM2, _SEEN, image_token_id=290)),
    "llama4": Kind("Llama 4", "Llama4Config", _pair(_LLAMA4, _LLAMA4_SEEN)),
    "paligemma": Kind("PaliGemma", "PaliGemmaConfig", {**_of("gemma", _SIGLIP), "projection_dim": 32}),
    "mllama": Kind("Llama 3.2 Vision", "MllamaConfig", _pair(_MLLAMA, _MLLAMA_SEEN, image_token_index=290)),
}  # fmt: skip


def made(kind: Kind) -> Any:
    """A random model of it, in evaluation mode; skipped where this version of transformers has none."""
    if not hasattr(transformers, kind.config):
        pytest.skip(f"transformers {transformers.__version__} has no {kind.config}")
    config = getattr(transformers, kind.config)(**copy.deepcopy(kind.options))
    auto = transformers.AutoModelForImageTextToText if "vision_config" in kind.options else None
    torch.manual_seed(0)
    return filled((auto or transformers.AutoModelForCausalLM).from_config(config))
