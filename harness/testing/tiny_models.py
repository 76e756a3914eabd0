"""Tiny random models of every verified family, and a tiny byte-level tokeniser for them; nothing is downloaded.

Models are deterministic. Norm gains, norm biases and projection biases are random, because at their initial values
(ones and zeros) many mistakes cannot be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from harness.errors import HarnessError, suggest

D_VOCAB = 300
"""Rows of the unembedding: more than the tokeniser's 260 tokens, as in real models."""

BOS, EOS = 257, 258


@dataclass(frozen=True)
class Family:
    """A configuration of a family, and the properties that the harness must find in it."""

    config: str
    options: dict[str, Any] = field(default_factory=dict)
    norm: str = "rmsnorm"
    parallel: bool = False
    direct_write: bool = True


_GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GQA = {**_LLAMA, "num_key_value_heads": 2}
_GEMMA = {**_GQA, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_FALCON = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_hidden_size": 64, "bias": True}
_OPT = {**_LLAMA, "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1}

FAMILIES: dict[str, Family] = {
    "gpt2": Family("GPT2Config", _GPT, norm="layernorm"),
    "gpt2_untied": Family("GPT2Config", {**_GPT, "tie_word_embeddings": False}, norm="layernorm"),
    "gpt_bigcode": Family("GPTBigCodeConfig", _GPT, norm="layernorm"),
    "gpt_neo": Family(
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 32,
            "max_position_embeddings": 64,
        },
        norm="layernorm",
    ),
    "gpt_neox": Family("GPTNeoXConfig", _LLAMA, norm="layernorm", parallel=True),
    "gpt_neox_sequential": Family("GPTNeoXConfig", {**_LLAMA, "use_parallel_residual": False}, norm="layernorm"),
    "gptj": Family("GPTJConfig", {**_GPT, "rotary_dim": 4}, norm="layernorm", parallel=True),
    "codegen": Family("CodeGenConfig", {**_GPT, "rotary_dim": 4}, norm="layernorm", parallel=True),
    "opt": Family("OPTConfig", _OPT, norm="layernorm"),
    "opt_350m": Family(
        "OPTConfig",
        {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
        norm="none",
        direct_write=False,
    ),
    "bloom": Family("BloomConfig", {"hidden_size": 32, "n_layer": 3, "n_head": 4}, norm="layernorm"),
    "mpt": Family("MptConfig", {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}, norm="layernorm"),
    "falcon": Family("FalconConfig", {**_FALCON, "multi_query": True}, norm="layernorm", parallel=True),
    "falcon_alibi": Family(
        "FalconConfig",
        {**_FALCON, "multi_query": False, "parallel_attn": False, "alibi": True},
        norm="layernorm",
    ),
    "falcon_new": Family(
        "FalconConfig",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
        norm="layernorm",
        parallel=True,
    ),
    "llama": Family("LlamaConfig", _LLAMA),
    "llama_gqa_tied": Family("LlamaConfig", {**_GQA, "tie_word_embeddings": True, "mlp_bias": True}),
    "mistral": Family("MistralConfig", _GQA),
    "phi": Family("PhiConfig", _LLAMA, norm="layernorm", parallel=True),
    "phi3": Family("Phi3Config", {**_GQA, "pad_token_id": 0}),
    "gemma": Family("GemmaConfig", _GEMMA),
    "gemma2": Family("Gemma2Config", {**_GEMMA, "final_logit_softcapping": 0.5}, direct_write=False),
    "gemma3": Family("Gemma3TextConfig", _GEMMA, direct_write=False),
    "qwen2": Family("Qwen2Config", _GQA),
    "qwen3": Family("Qwen3Config", {**_GQA, "head_dim": 16}),
    "olmo": Family("OlmoConfig", _GQA, norm="layernorm"),
    "olmo2": Family("Olmo2Config", _GQA, direct_write=False),
    "olmo3": Family("Olmo3Config", _GQA, direct_write=False),
    "stablelm": Family("StableLmConfig", _GQA, norm="layernorm"),
    "stablelm_parallel": Family(
        "StableLmConfig", {**_GQA, "use_parallel_residual": True}, norm="layernorm", parallel=True
    ),
    "starcoder2": Family("Starcoder2Config", _GQA, norm="layernorm"),
    "cohere": Family("CohereConfig", {**_GQA, "logit_scale": 0.25}, norm="layernorm", parallel=True),
    "cohere2": Family("Cohere2Config", {**_GQA, "logit_scale": 0.25}, norm="layernorm", parallel=True),
    "granite": Family(
        "GraniteConfig",
        {
            **_GQA,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.1,
        },
        direct_write=False,
    ),
    "glm4": Family("Glm4Config", {**_GQA, "head_dim": 8, "pad_token_id": 0}, direct_write=False),
    "exaone4": Family("Exaone4Config", _GQA, direct_write=False),
    "smollm3": Family("SmolLM3Config", {**_GQA, "pad_token_id": 0}),
    "nemotron": Family("NemotronConfig", _GQA, norm="layernorm"),
    "helium": Family("HeliumConfig", {**_GQA, "head_dim": 8}),
    "xglm": Family(
        "XGLMConfig",
        {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 64},
        norm="layernorm",
    ),
    "biogpt": Family("BioGptConfig", _LLAMA, norm="layernorm"),
}


_ROUTED = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
_DEEPSEEK = {
    **_LLAMA,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
}
_SHARED = {**_GQA, **_ROUTED, "shared_expert_intermediate_size": 24}
_GRANITE_MOE = {**_GQA, **_LOCAL, "residual_multiplier": 0.22}

MIXTURES: dict[str, Family] = {
    "mixtral": Family("MixtralConfig", {**_GQA, **_LOCAL}),
    "olmoe": Family("OlmoeConfig", {**_GQA, "num_experts": 8, "num_experts_per_tok": 2, "pad_token_id": 0}),
    "qwen2_moe": Family("Qwen2MoeConfig", {**_SHARED, "mlp_only_layers": [0]}),
    "qwen3_moe": Family("Qwen3MoeConfig", {**_GQA, **_ROUTED, "head_dim": 8}),
    "deepseek_v2": Family("DeepseekV2Config", _DEEPSEEK),
    "deepseek_v3": Family("DeepseekV3Config", _DEEPSEEK),
    "gpt_oss": Family(
        "GptOssConfig",
        {
            **_GQA,
            **_LOCAL,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "sliding_window": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "granitemoe": Family("GraniteMoeConfig", _GRANITE_MOE, direct_write=False),
    "granitemoeshared": Family(
        "GraniteMoeSharedConfig", {**_GRANITE_MOE, "shared_intermediate_size": 24}, direct_write=False
    ),
    "phimoe": Family("PhimoeConfig", {**_GQA, **_LOCAL}, norm="layernorm"),
    "flex_olmo": Family(
        "FlexOlmoConfig", {**_GQA, "num_experts": 8, "num_experts_per_tok": 2, "pad_token_id": 0}, direct_write=False
    ),
}
"""Mixtures of experts: all MLPs routed (Mixtral, OLMoE, Qwen3-MoE, gpt-oss, Granite-MoE, Phi-MoE, FlexOlmo), or a dense
first layer and shared experts beside the routed ones in the others."""


def tiny_hf(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, attention: str | None = None) -> Any:
    """A random ``transformers`` model of the family in evaluation mode.

    Args:
        attention: the implementation, "eager" or "sdpa"; by default the family's own choice.

    Raises:
        HarnessError: there is no such family; names the nearest.
    """
    every = FAMILIES | MIXTURES
    if family not in every:
        raise HarnessError(f'there is no family "{family}".{suggest(family, every)} There are: {", ".join(every)}.')
    spec = every[family]
    config = getattr(transformers, spec.config)(
        **{"vocab_size": D_VOCAB, "bos_token_id": BOS, "eos_token_id": EOS, **spec.options}
    )
    torch.manual_seed(seed)
    options = {"attn_implementation": attention} if attention else {}
    return filled(transformers.AutoModelForCausalLM.from_config(config, **options), seed).to(dtype)


def filled(hf: Any, seed: int = 0) -> Any:
    """A new ``transformers`` model with random weights at which all parts matter, float32, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in hf.float().parameters():
            # Vectors are gains and biases.
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:
                weight += 0.3 * noise
            else:
                weight.copy_(0.15 * noise)
    return hf.eval().requires_grad_(False)


def tokenizer(
    bos: bool = False, pad: str | None = None, template_eos: bool = False
) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokeniser: ids 0 to 255 are bytes, 257 is <s>, 258 is </s>, 259 is <pad>.

    Args:
        bos: put <s> before every text, as Llama's tokeniser does.
        pad: "<pad>", or None for a tokeniser without a pad token, as GPT-2's.
        template_eos: append </s> to every text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"<unk>": 256, "<s>": BOS, "</s>": EOS, "<pad>": 259}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos or template_eos:
        backend.post_processor = processors.TemplateProcessing(
            single=("<s> " if bos else "") + "$A" + (" </s>" if template_eos else ""),
            special_tokens=[("<s>", BOS), ("</s>", EOS)],
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=pad
    )
