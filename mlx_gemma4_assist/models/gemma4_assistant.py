"""The drafter: four Gemma 4 layers that read the target's keys and values and have none of their own."""

from typing import Protocol

import mlx.core as mx

from .attention import KeysValues
from .config import Gemma4AssistantConfig
from .gemma4_text import Gemma4TextModel
from .linear import Linear
from .network import Module, Network


class Embedding(Protocol):
    """``nn.Embedding``, or a quantized one."""

    def __call__(self, tokens: mx.array) -> mx.array:
        """tokens: (...) integers -> (..., h)."""

    def as_linear(self, hidden: mx.array) -> mx.array:
        """hidden: (..., h) -> (..., V): the tied head."""


class MaskedEmbedder(Module):
    """The centroid head (transformers' ``Gemma4AssistantMaskedEmbedder``).

    Each of C centroids owns V / C token ids; only the ids of the best ``top_k`` centroids are scored. Rows are gathered
    through the embedding module, so that a quantized table works too, and nothing is read back to the host.
    """

    def __init__(self, config: Gemma4AssistantConfig):
        super().__init__()
        text = config.text_config
        self.num_centroids = config.num_centroids
        self.top_k = config.centroid_intermediate_top_k
        self.vocab_size = text.vocab_size
        self.centroids = Linear(text.hidden_size, config.num_centroids)
        self.token_ordering = mx.zeros((text.vocab_size,), dtype=mx.int32)

    def candidates(self, hidden: mx.array, embed_tokens: Embedding) -> tuple[mx.array, mx.array]:
        """hidden: (B, L, h) -> token ids (B, L, top_k * V / C) and their logits, same shape."""
        B, L, _ = hidden.shape
        best = mx.argpartition(self.centroids(hidden), kth=-self.top_k, axis=-1)[..., -self.top_k :]
        tokens = self.token_ordering.reshape(self.num_centroids, -1)[best].reshape(B, L, -1)
        logits = (embed_tokens(tokens) @ hidden[..., None]).squeeze(-1)
        return tokens, logits

    def argmax(self, hidden: mx.array, embed_tokens: Embedding) -> mx.array:
        """hidden: (B, L, h) -> (B, L) int32; no array of the vocabulary's size is built."""
        tokens, logits = self.candidates(hidden, embed_tokens)
        best = mx.argmax(logits, axis=-1, keepdims=True)
        return mx.take_along_axis(tokens, best, axis=-1).squeeze(-1)

    def logits(self, hidden: mx.array, embed_tokens: Embedding) -> mx.array:
        """hidden: (B, L, h) -> (B, L, V); ids of other centroids are impossible, where transformers has minimum - 1."""
        tokens, logits = self.candidates(hidden, embed_tokens)
        nothing = mx.full((*hidden.shape[:2], self.vocab_size), -mx.inf, dtype=logits.dtype)
        return mx.put_along_axis(nothing, tokens, logits, axis=-1)


class DenseHead(Module):
    """The tied head of the 12B, 26B-A4B and 31B assistants; it has no weights of its own."""

    def argmax(self, hidden: mx.array, embed_tokens: Embedding) -> mx.array:
        """hidden: (B, L, h) -> (B, L) int32."""
        return mx.argmax(self.logits(hidden, embed_tokens), axis=-1).astype(mx.int32)

    def logits(self, hidden: mx.array, embed_tokens: Embedding) -> mx.array:
        """hidden: (B, L, h) -> (B, L, V)."""
        return embed_tokens.as_linear(hidden)


class Gemma4AssistantForCausalLM(Network):
    """transformers' ``Gemma4AssistantForCausalLM`` and ``Gemma4UnifiedAssistantForCausalLM``.

    Its logits are not soft-capped, as in transformers.
    """

    def __init__(self, config: Gemma4AssistantConfig):
        super().__init__()
        self.config = config
        hidden, backbone = config.text_config.hidden_size, config.backbone_hidden_size
        self.model = Gemma4TextModel(config.text_config)
        self.pre_projection = Linear(2 * backbone, hidden)
        self.post_projection = Linear(hidden, backbone)
        self.masked_embedding = MaskedEmbedder(config) if config.use_ordered_embeddings else DenseHead()

    def __call__(
        self,
        inputs_embeds: mx.array,
        position_ids: mx.array,
        shared_kv_states: dict[str, KeysValues],
        masks: dict[str, mx.array | None],
    ) -> tuple[mx.array, mx.array]:
        """One draft step.

        Args:
            inputs_embeds: (B, 1, 2 * backbone): the target's scaled embedding of the last token, then a hidden state:
                the target's after its final norm for a round's first draft, the projected one from here afterwards.
            position_ids: (B,) int32, the same for all drafts of a round.
            shared_kv_states: by layer type, the target's keys and values, (B, G, S, D) each.
            masks: by layer type, the keys that may be seen, (B, 1, 1, S) bool, or None for all.

        Returns:
            hidden (B, 1, h) for :meth:`argmax` and :meth:`logits`; projected (B, 1, backbone) for the next step.
        """
        x = self.pre_projection(inputs_embeds.squeeze(1))
        for layer in self.model.layers:
            x = layer(x, position_ids, masks[layer.kind], shared_kv_states[layer.kind])
        hidden = self.model.norm(x)
        return hidden[:, None], self.post_projection(hidden)[:, None]

    def argmax(self, hidden: mx.array) -> mx.array:
        """hidden: (B, 1, h) -> the most likely token, (B, 1) int32."""
        return self.masked_embedding.argmax(hidden, self.model.embed_tokens)

    def logits(self, hidden: mx.array) -> mx.array:
        """hidden: (B, 1, h) -> (B, 1, V)."""
        return self.masked_embedding.logits(hidden, self.model.embed_tokens)

    def parameter_name(self, name: str) -> str | None:
        """The parameter of a checkpoint's tensor (or module); None for the tied head and rotary buffers."""
        return None if name.startswith("lm_head.") or ".rotary_emb." in name else name

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """As ``Network.sanitize``; the token ordering, int64 in the file, becomes int32."""
        named = super().sanitize(weights)
        ordering = "masked_embedding.token_ordering"
        if ordering in named:
            named[ordering] = named[ordering].astype(mx.int32)
        return named
