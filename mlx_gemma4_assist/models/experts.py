"""The routed experts of 26B-A4B, which run beside the layer's dense MLP."""

import mlx.core as mx
import mlx.nn as nn

from ..backend import on_gpu
from . import cpu
from .activations import geglu
from .config import Gemma4TextConfig
from .layers import rms_norm
from .linear import Linear
from .network import Module


class GeGLU(Module):
    """The activation that mlx-lm's ``SwitchGLU`` calls: (up, gate) -> product."""

    def __call__(self, x: mx.array, gate: mx.array) -> mx.array:
        return geglu(gate, x)


class Router(Module):
    """transformers' ``Gemma4TextRouter``: norm, learned scale, projection, softmax over the best experts."""

    def __init__(self, config: Gemma4TextConfig):
        super().__init__()
        self.top_k = config.top_k_experts
        self.eps = config.rms_norm_eps
        self.root_size = config.hidden_size**-0.5
        self.proj = Linear(config.hidden_size, config.num_experts)
        self.scale = mx.ones((config.hidden_size,))
        self.per_expert_scale = mx.ones((config.num_experts,))

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x: (T, H), all positions of a block -> experts (T, top_k) uint32 and their weights (T, top_k)."""
        scores = self.proj(rms_norm(x, self.scale * self.root_size, self.eps))
        experts = mx.argpartition(scores, kth=-self.top_k, axis=-1)[..., -self.top_k :]
        # A softmax over all experts, renormalised over the best, is a softmax over the best.
        weights = mx.softmax(mx.take_along_axis(scores, experts, axis=-1), axis=-1, precise=True)
        return experts, weights * self.per_expert_scale[experts]


class Experts(Module):
    """transformers' ``Gemma4TextExperts``, its weights stored as mlx-lm stores them."""

    def __init__(self, config: Gemma4TextConfig):
        super().__init__()
        # Imported late: it takes a second, and only 26B-A4B has experts.
        from mlx_lm.models.switch_layers import SwitchGLU

        self.switch_glu = SwitchGLU(
            config.hidden_size, config.moe_intermediate_size, config.num_experts, activation=GeGLU(), bias=False
        )

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """x: (T, H); experts, weights: (T, top_k) -> (T, H)."""
        routed = self.switch_glu(x, experts) if on_gpu() else self._on_cpu(x, experts)
        return (routed * weights[..., None]).sum(-2)

    def _on_cpu(self, x: mx.array, experts: mx.array) -> mx.array:
        """As ``switch_glu``: x: (T, H); experts: (T, top_k) -> (T, top_k, H)."""
        glu = self.switch_glu
        x = mx.expand_dims(x, (-2, -3))
        up, gate = _product(glu.up_proj, x, experts), _product(glu.gate_proj, x, experts)
        return _product(glu.down_proj, geglu(gate, up), experts).squeeze(-2)


def _product(layer: nn.Module, x: mx.array, experts: mx.array) -> mx.array:
    """A projection of the experts, quantized or not, on the CPU backend; shapes as for ``cpu.expert_product``."""
    if "scales" in layer:
        product: mx.array = layer(x, experts)
        return product
    return cpu.expert_product(x, layer.weight, experts)
