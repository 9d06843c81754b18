"""The decoder of every Gemma 4 target: E2B, E4B, 12B unified, 26B-A4B and 31B.

Module names are Hugging Face's (``model.layers.0.self_attn.q_proj``), experts excepted, which are named as in mlx-lm.
"""

from copy import copy

import mlx.core as mx
import mlx.nn as nn

from ..backend import Kept
from .activations import geglu, softcap
from .attention import KeysValues, Mask
from .config import Gemma4TextConfig
from .experts import Experts, Router
from .layers import MLP, Attention, BlockCache, RMSNorm
from .linear import Linear
from .names import layer_number, split_experts, text_name
from .network import Module, Network

_ROOT_HALF: float = 0.5**0.5
KEPT = 16  # things made for a target: its compiled rounds, its fingerprint, what its runs have taught


def _norm(config: Gemma4TextConfig) -> RMSNorm:
    return RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class DecoderLayer(Module):
    """transformers' ``Gemma4TextDecoderLayer``."""

    def __init__(self, config: Gemma4TextConfig, layer: int):
        super().__init__()
        self.kind = config.layer_types[layer]
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config, layer)
        self.input_layernorm = _norm(config)
        self.post_attention_layernorm = _norm(config)
        self.pre_feedforward_layernorm = _norm(config)
        self.post_feedforward_layernorm = _norm(config)
        self.has_experts = config.enable_moe_block
        if self.has_experts:
            self.router = Router(config)
            self.experts = Experts(config)
            self.post_feedforward_layernorm_1 = _norm(config)
            self.post_feedforward_layernorm_2 = _norm(config)
            self.pre_feedforward_layernorm_2 = _norm(config)
        per_layer_size = config.hidden_size_per_layer_input
        if per_layer_size:
            self.per_layer_input_gate = Linear(config.hidden_size, per_layer_size)
            self.per_layer_projection = Linear(per_layer_size, config.hidden_size)
            self.post_per_layer_input_norm = _norm(config)
        self.layer_scalar = mx.ones((1,))

    def _feed_forward(self, x: mx.array) -> mx.array:
        dense = self.mlp(self.pre_feedforward_layernorm(x))
        if not self.has_experts:
            return dense
        routed = self.experts(self.pre_feedforward_layernorm_2(x), *self.router(x))
        return self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(routed)

    def __call__(
        self,
        x: mx.array,
        offset: mx.array,
        mask: Mask,
        keys_values: KeysValues,
        normed: mx.array | None = None,
        per_layer_input: mx.array | None = None,
    ) -> mx.array:
        """x: (B * L, H) -> (B * L, H); offset: (B,).

        ``normed`` is ``input_layernorm(x)`` where the caller has it already, from projecting keys and values.
        ``per_layer_input``: (B * L, P), for the models that have them, None for the others.
        """
        normed = self.input_layernorm(x) if normed is None else normed
        x = x + self.post_attention_layernorm(self.self_attn(normed, offset, mask, keys_values))
        x = x + self.post_feedforward_layernorm(self._feed_forward(x))
        if per_layer_input is not None:
            gated = self.per_layer_projection(geglu(self.per_layer_input_gate(x), per_layer_input))
            x = x + self.post_per_layer_input_norm(gated)
        return x * self.layer_scalar


class Gemma4TextModel(Module):
    """transformers' ``Gemma4TextModel``: embeddings, per-layer inputs, layers, final norm.

    The same class is the assistant's body, where no layer owns keys and values.
    """

    def __init__(self, config: Gemma4TextConfig):
        super().__init__()
        self.config = config
        self.embed_scale: float = config.hidden_size**0.5
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        self.norm = _norm(config)
        self.per_layer_size = config.hidden_size_per_layer_input
        if self.per_layer_size:
            packed = config.num_hidden_layers * self.per_layer_size
            self.embed_tokens_per_layer = nn.Embedding(config.vocab_size_per_layer_input, packed)
            self.per_layer_model_projection = Linear(config.hidden_size, packed)
            self.per_layer_projection_norm = RMSNorm(self.per_layer_size, eps=config.rms_norm_eps)

    def embed(self, tokens: mx.array) -> mx.array:
        """tokens: (B, L) integers -> (B, L, H), scaled by sqrt(H) as the network wants them."""
        rows: mx.array = self.embed_tokens(tokens)
        return rows * self.embed_scale

    def per_layer_inputs(self, tokens: mx.array, inputs_embeds: mx.array) -> mx.array:
        """tokens: (B, L), inputs_embeds: (B * L, H) scaled -> (B * L, layers, P): identity and context combined."""
        shape = (tokens.size, self.config.num_hidden_layers, self.per_layer_size)
        identity: mx.array = (self.embed_tokens_per_layer(tokens) * self.per_layer_size**0.5).reshape(shape)
        context = (self.per_layer_model_projection(inputs_embeds) * self.config.hidden_size**-0.5).reshape(shape)
        return (self.per_layer_projection_norm(context) + identity) * _ROOT_HALF

    def __call__(self, tokens: mx.array, cache: BlockCache, inputs_embeds: mx.array | None = None) -> mx.array:
        """tokens: (B, L) integers, whose keys and values go to ``cache`` -> (B, L, H), after the final norm.

        ``inputs_embeds``: (B, L, H), instead of the tokens' own embeddings where pictures and sound are merged in;
        ``tokens`` then has padding there, which is what per-layer inputs are looked up for.

        A prompt's chunk evaluates only the cache: lazy evaluation then leaves out all that follows the last layer that
        owns keys and values.
        """
        embeds = self.embed(tokens) if inputs_embeds is None else inputs_embeds
        x = embeds.reshape(tokens.size, -1)
        per_layer_inputs = self.per_layer_inputs(tokens, x) if self.per_layer_size else None
        shared: dict[str, KeysValues] = {}
        for i, layer in enumerate(self.layers):
            normed = layer.input_layernorm(x)
            if layer.self_attn.owns_kv:
                shared[layer.kind] = layer.self_attn.keys_values(normed, cache)
            per_layer_input = None if per_layer_inputs is None else per_layer_inputs[:, i]
            x = layer(x, cache.offset, cache.masks[layer.kind], shared[layer.kind], normed, per_layer_input)
        return self.norm(x).reshape(embeds.shape)


class Gemma4ForCausalLM(Network):
    """A Gemma 4 target (transformers' ``Gemma4ForCausalLM``): tokens in, hidden states and logits out.

    Attributes:
        adapter: a name for the adapter that is merged into the weights; empty without one.
        kept: what others make for this network and want to find again as long as it lives; no part of what it computes.
    """

    def __init__(self, config: Gemma4TextConfig):
        super().__init__()
        self.config = config
        self.model = Gemma4TextModel(config)
        self.adapter = ""
        self.kept = Kept(KEPT)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def __getstate__(self) -> dict[str, object]:
        """A copy, deep or not, keeps nothing yet: what was made for this network may have its weights in it."""
        return vars(self) | {"kept": copy(self.kept)}

    def embed(self, tokens: mx.array) -> mx.array:
        """tokens: (B, L) integers -> (B, L, H), scaled: also what the assistant takes."""
        return self.model.embed(tokens)

    @property
    def hidden_dtype(self) -> mx.Dtype:
        """The type of hidden states: where norms are wider than the layers' weights, as with mxfp4, the norms'."""
        embedded = self.embed(mx.array([[0]])).dtype
        return mx.result_type(embedded, self.model.norm.weight)

    def __call__(self, tokens: mx.array, cache: BlockCache, inputs_embeds: mx.array | None = None) -> mx.array:
        """tokens: (B, L) integers -> hidden states (B, L, H) after the final norm; keys and values go to ``cache``.

        ``inputs_embeds``: (B, L, H), scaled, instead of the tokens' own embeddings.
        """
        return self.model(tokens, cache, inputs_embeds)

    def logits(self, hidden: mx.array) -> mx.array:
        """hidden: (B, L, H) after the final norm -> (B, L, V), soft-capped."""
        tied = self.config.tie_word_embeddings
        head = self.model.embed_tokens.as_linear if tied else self.lm_head
        cap = self.config.final_logit_softcapping
        return head(hidden) if cap is None else softcap(head(hidden), cap)

    def parameter_name(self, name: str) -> str | None:
        """The parameter that a checkpoint's tensor (or module) belongs to, None for what this network does not have.

        Left out are the towers of the multimodal models, rotary buffers, a tied head, and the key and value projections
        that some checkpoints carry for KV-shared layers, where transformers ignores them too.
        """
        own = text_name(name)
        if own is None or (self.config.tie_word_embeddings and own.startswith("lm_head.")):
            return None
        layer = layer_number(own)
        shared = layer is not None and layer >= self.config.num_kv_layers
        if shared and any(part in own for part in (".k_proj", ".v_proj", ".k_norm", ".v_norm")):
            return None
        return own

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """As ``Network.sanitize``; stacked experts are split."""
        return split_experts(super().sanitize(weights))
