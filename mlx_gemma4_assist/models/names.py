"""Tensor names: the layouts found in the wild, mapped to the one that the networks use."""

import re

import mlx.core as mx

# transformers' full checkpoints, mlx-lm's and mlx-vlm's conversions of them, text-only checkpoints.
_TEXT_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.", "model."),
    ("lm_head.", "lm_head."),
)
_NOT_TEXT = re.compile(
    r"^(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio|vision_embedder|audio_embedder|multi_modal_projector)\."
    r"|\.rotary_emb\."
)
_LAYER = re.compile(r"\.layers\.(\d+)\.")


def text_name(name: str) -> str | None:
    """A tensor's name in the text network; None for towers and rotary buffers. Unknown names come back unchanged."""
    if _NOT_TEXT.search(name):
        return None
    for prefix, ours in _TEXT_PREFIXES:
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name


def layer_number(name: str) -> int | None:
    """The decoder layer that a parameter belongs to."""
    match = _LAYER.search(name)
    return int(match.group(1)) if match else None


def split_experts(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """transformers' ``experts.gate_up_proj`` (E, 2I, H) and ``experts.down_proj`` -> mlx-lm's ``switch_glu``.

    What has no such shape keeps its name, which no network has.
    """
    out = {}
    for name, value in weights.items():
        base, _, last = name.rpartition(".")
        if base.endswith(".experts") and last == "gate_up_proj" and value.ndim == 3 and value.shape[1] % 2 == 0:
            gate, up = mx.split(value, 2, axis=-2)
            out[f"{base}.switch_glu.gate_proj.weight"] = mx.contiguous(gate)
            out[f"{base}.switch_glu.up_proj.weight"] = mx.contiguous(up)
        elif base.endswith(".experts") and last == "down_proj":
            out[f"{base}.switch_glu.down_proj.weight"] = value
        else:
            out[name] = value
    return out
