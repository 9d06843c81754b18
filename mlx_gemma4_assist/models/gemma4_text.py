"""The decoder of every Gemma 4 target: E2B, E4B, 12B unified, 26B-A4B and 31B.

Module names are Hugging Face's (``model.layers.0.self_attn.q_proj``), experts excepted, which are named as in mlx-lm.
"""

import mlx.core as mx
import mlx.nn as nn

from ..backend import Kept
from .activations import geglu, softcap
from .attention import KeysValues, Mask
from .config import Gemma4TextConfig
from .experts import Experts, Router
from .layers import MLP, Attention, BlockCache, RMSNorm
from .names import layer_number, split_experts, text_name

KEPT = 16


class DecoderLayer(nn.Module):
    """transformers' ``Gemma4TextDecoderLayer``."""

    def __init__(self, config: Gemma4TextConfig, layer: int):
        super().__init__()
        self.kind = config.layer_types[layer]
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config, layer)
        norms = [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ]
        self.has_experts = config.enable_moe_block
        if self.has_experts:
            self.router = Router(config)
            self.experts = Experts(config)
            norms += ["post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"]
        self.has_per_layer_input = config.hidden_size_per_layer_input > 0
        if self.has_per_layer_input:
            self.per_layer_input_gate = nn.Linear(config.hidden_size, config.hidden_size_per_layer_input, bias=False)
            self.per_layer_projection = nn.Linear(config.hidden_size_per_layer_input, config.hidden_size, bias=False)
            norms += ["post_per_layer_input_norm"]
        for name in norms:
            setattr(self, name, RMSNorm(config.hidden_size, eps=config.rms_norm_eps))
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
        """x: (B, L, H) -> (B, L, H).

        ``normed`` is ``input_layernorm(x)`` where the caller has it already, from projecting keys and values.
        ``per_layer_input``: (B, L, P), for the models that have them.
        """
        normed = self.input_layernorm(x) if normed is None else normed
        x = x + self.post_attention_layernorm(self.self_attn(normed, offset, mask, keys_values))
        x = x + self.post_feedforward_layernorm(self._feed_forward(x))
        if self.has_per_layer_input:
            gated = self.per_layer_projection(geglu(self.per_layer_input_gate(x), per_layer_input))
            x = x + self.post_per_layer_input_norm(gated)
        return x * self.layer_scalar


class Gemma4TextModel(nn.Module):
    """transformers' ``Gemma4TextModel``: embeddings, per-layer inputs, layers, final norm.

    The same class is the assistant's body, where no layer owns keys and values.
    """

    def __init__(self, config: Gemma4TextConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.per_layer_size = config.hidden_size_per_layer_input
        if self.per_layer_size:
            packed = config.num_hidden_layers * self.per_layer_size
            self.embed_tokens_per_layer = nn.Embedding(config.vocab_size_per_layer_input, packed)
            self.per_layer_model_projection = nn.Linear(config.hidden_size, packed, bias=False)
            self.per_layer_projection_norm = RMSNorm(self.per_layer_size, eps=config.rms_norm_eps)

    def embed(self, tokens: mx.array) -> mx.array:
        """tokens: (B, L) integers -> (B, L, H), scaled by sqrt(H) as the network wants them."""
        return self.embed_tokens(tokens) * self.config.hidden_size**0.5

    def per_layer_inputs(self, tokens: mx.array, inputs_embeds: mx.array) -> mx.array:
        """tokens: (B, L), inputs_embeds: (B, L, H) scaled -> (B, L, layers, P): identity and context combined."""
        shape = (*tokens.shape, self.config.num_hidden_layers, self.per_layer_size)
        identity = (self.embed_tokens_per_layer(tokens) * self.per_layer_size**0.5).reshape(shape)
        context = (self.per_layer_model_projection(inputs_embeds) * self.config.hidden_size**-0.5).reshape(shape)
        return (self.per_layer_projection_norm(context) + identity) * 2**-0.5

    def __call__(self, tokens: mx.array, cache: BlockCache, inputs_embeds: mx.array | None = None) -> mx.array:
        """tokens: (B, L) integers, whose keys and values go to ``cache`` -> (B, L, H), after the final norm.

        ``inputs_embeds``: (B, L, H), instead of the tokens' own embeddings where pictures and sound are merged in;
        ``tokens`` then has padding there, which is what per-layer inputs are looked up for.

        A prompt's chunk evaluates only the cache: lazy evaluation then leaves out all that follows the last layer that
        owns keys and values.
        """
        x = self.embed(tokens) if inputs_embeds is None else inputs_embeds
        per_layer_inputs = self.per_layer_inputs(tokens, x) if self.per_layer_size else None
        shared: dict[str, KeysValues] = {}
        for i, layer in enumerate(self.layers):
            normed = layer.input_layernorm(x)
            if layer.self_attn.owns_kv:
                shared[layer.kind] = layer.self_attn.keys_values(normed, cache)
            per_layer_input = per_layer_inputs[:, :, i] if self.per_layer_size else None
            x = layer(x, cache.offset, cache.masks[layer.kind], shared[layer.kind], normed, per_layer_input)
        return self.norm(x)


class Gemma4ForCausalLM(nn.Module):
    """A Gemma 4 target (transformers' ``Gemma4ForCausalLM``): tokens in, hidden states and logits out.

    Attributes:
        kept: what others made for this network and want to live as long as it; no parameter.
    """

    def __init__(self, config: Gemma4TextConfig):
        super().__init__()
        self.config = config
        self.kept = Kept(KEPT)
        self.model = Gemma4TextModel(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def embed(self, tokens: mx.array) -> mx.array:
        """tokens: (B, L) integers -> (B, L, H), scaled: also what the assistant takes."""
        return self.model.embed(tokens)

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
        name = text_name(name)
        if name is None or (self.config.tie_word_embeddings and name.startswith("lm_head.")):
            return None
        layer = layer_number(name)
        shared = layer is not None and layer >= self.config.num_kv_layers
        if shared and any(part in name for part in (".k_proj", ".v_proj", ".k_norm", ".v_norm")):
            return None
        return name

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Any supported layout -> this network's parameter names."""
        named = {self.parameter_name(name): value for name, value in weights.items()}
        named.pop(None, None)
        return split_experts(named)
