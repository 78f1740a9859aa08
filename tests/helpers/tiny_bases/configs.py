"""Small configs of any architecture: the default config of transformers with its sizes shrunk.

Sizes are recognised by their names. They differ from each other, so that a wrong shape is not right by chance, and are
multiples of 32, which vLLM's attention needs.
"""

import re
from typing import Any

from transformers import PretrainedConfig

VOCABULARY = 270
"""The size of the shared tokenizer's vocabulary."""
HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 32, 128
"""vLLM's attention on a CPU has no smaller heads."""
SLIDING_WINDOW = 16
"""Shorter than the matrix's prompts, so that a wrong window shows."""

_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"moe_intermediate_size|moe_.*intermediate_size|.*expert_intermediate_size|expert_ffn_hidden_size", 64),
    (r"intermediate_size|.*_intermediate_size|ffn_dim|n_inner|ffn_hidden_size|.*ffn_dim|mlp_dim", 160),
    (r"hidden_size|d_model|n_embd|dim|embed_dim|word_embed_proj_dim|out_hidden_size|projection_dim", HIDDEN),
    (r"num_(hidden_)?layers|n_layers?|depth|(encoder|decoder|audio|vision)_layers|num_.*_hidden_layers", 2),
    (r"num_attention_heads|n_heads?|num_heads|(encoder|decoder)_attention_heads", HEADS),
    (r"num_key_value_heads|num_kv_heads|multi_query_group_num|.*_num_key_value_heads", KV_HEADS),
    (r"head_dim|global_head_dim|attention_head_dim|kv_channels|query_pre_attn_scalar|v_head_dim", HEAD_DIM),
    (r"(num|n_routed|num_local|moe_num|num_routed)_?experts|n_routed_experts", 4),
    (r"num_experts_per_tok|num_experts_per_token|moe_top_?k|top_k_experts|moe_k|num_experts_per_topk", 2),
    (r"n_group|topk_group|n_shared_experts|num_shared_experts|first_k_dense_replace", 1),
    (r"q_lora_rank|kv_lora_rank", 32),
    (r"qk_nope_head_dim", 32),
    (r"qk_rope_head_dim", 32),
    (r"max_position_embeddings|n_positions|max_seq_len|max_seq_length", 512),
    (r"sliding_window", SLIDING_WINDOW),
    (r"mamba_chunk_size|chunk_size", 16),
    (r"mamba_d_state|mamba_state_dim|ssm_state_size|state_size", 16),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads", 4),
    (r"linear_(key|value)_head_dim", 32),
)


def shrunk(config_class: type[PretrainedConfig], **changes: Any) -> PretrainedConfig:
    """Return the default config of `config_class`, with small sizes and `changes`; parts are shrunk, too."""
    default = config_class()
    sizes = _small_sizes(default) | _small_patterns(default)
    parts = {name: shrunk(type(getattr(default, name))) for name in _part_names(default)}
    return config_class(**sizes | parts | changes)


def _part_names(config: PretrainedConfig) -> list[str]:
    return [name for name in config.sub_configs if isinstance(getattr(config, name, None), PretrainedConfig)]


def _small_sizes(config: PretrainedConfig) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, int) and not isinstance(value, bool):
            if re.fullmatch(r"\w+_token_(id|index)", name) and value >= VOCABULARY:
                sizes[name] = VOCABULARY - 1 - len(sizes)
            size = next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), None)
            if size is not None and value > 0:
                sizes[name] = min(size, value)
    return sizes


def _small_patterns(config: PretrainedConfig) -> dict[str, Any]:
    """Return layer patterns that have each type of layer once, and the number of layers for them."""
    types = list(dict.fromkeys(vars(config).get("layer_types") or ()))
    if not types:
        return {}
    types = types if len(types) > 1 else types * 2
    return {"layer_types": types, "num_hidden_layers": len(types)}


CHANGES: dict[str, dict[str, Any]] = {
    # vLLM's window has one token more than transformers'; logits are scaled down so far that little shows.
    "Cohere2ForCausalLM": {"sliding_window": 256, "logit_scale": 1.0},
    "CohereForCausalLM": {"logit_scale": 1.0},
    "AfmoeForCausalLM": {"score_func": "sigmoid", "route_norm": True, "route_scale": 1.0},
    "Glm4MoeForCausalLM": {"head_dim": HEAD_DIM},
    "Glm4MoeLiteForCausalLM": {"first_k_dense_replace": 1},
    "HYV3ForCausalLM": {"first_k_dense_replace": 1, "expert_hidden_dim": 64},
    "HunYuanDenseV1ForCausalLM": {"head_dim": HEAD_DIM},
    "HunYuanMoEV1ForCausalLM": {"head_dim": HEAD_DIM},
    "Lfm2ForCausalLM": {
        "block_dim": HIDDEN,
        "block_ff_dim": 160,
        "block_auto_adjust_ff_dim": False,
        "conv_dim": HIDDEN,
    },
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "LongcatFlashForCausalLM": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True, "zero_expert_type": "identity"},
    "MiniMaxM2ForCausalLM": {"rotary_dim": HEAD_DIM, "scoring_func": "sigmoid"},
    "NemotronForCausalLM": {"head_dim": HEAD_DIM, "num_key_value_heads": KV_HEADS},
}
"""Changes to shrunk default configs, by architecture: keys that real configs have and the defaults lack, or values that
would hide differences."""
