"""Configurations: Hugging Face's names and defaults, and a validation that says what is wrong.

Two spellings of the same facts exist in the wild and both are read. Published checkpoints carry ``global_head_dim`` and
``num_global_key_value_heads``; transformers 5.22 and later write ``per_layer_config: {"3": {"head_dim": 512}}``. Here
both become one head dim and one number of KV heads per layer type.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ..errors import InputError
from ..files import read_part
from .validation import LARGEST, MOST_LAYERS, expect, expect_counts, expect_types, is_count, is_number, known

FULL = "full_attention"
SLIDING = "sliding_attention"
LAYER_TYPES = (SLIDING, FULL)

TARGET_MODEL_TYPES = {
    "gemma4": "the multimodal E2B, E4B, 26B-A4B and 31B",
    "gemma4_text": "their text part",
    "gemma4_unified": "the multimodal 12B",
    "gemma4_unified_text": "its text part",
}
ASSISTANT_MODEL_TYPES = ("gemma4_assistant", "gemma4_unified_assistant")
UNIFIED_TEXT = "gemma4_unified_text"

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "global_head_dim",
    "sliding_window",
    "max_position_embeddings",
)
_WIDEST_WINDOW = 2**20  # the largest is 1,024; a cache has room for a whole one
_UNIFIED_DEFAULTS = {
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
    "sliding_window": 1024,
    "max_position_embeddings": 262_144,
}


def _default_rope_parameters() -> dict[str, dict[str, Any]]:
    return {
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
    }


@dataclass(frozen=True)
class Gemma4TextConfig:
    """The decoder of a target or of an assistant (transformers' ``Gemma4TextConfig``, ``Gemma4UnifiedTextConfig``).

    Raises:
        InputError: an architecture that Gemma 4 does not have, with the value found and the value expected.
    """

    model_type: str = "gemma4_text"
    vocab_size: int = 262_144
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 30
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    global_head_dim: int = 512
    num_global_key_value_heads: int | None = None
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131_072
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    rope_parameters: dict[str, dict[str, Any]] = field(default_factory=_default_rope_parameters)
    attention_bias: bool = False
    sliding_window: int = 512
    layer_types: tuple[str, ...] = ()
    final_logit_softcapping: float | None = None
    use_bidirectional_attention: str | None = None
    pad_token_id: int = 0
    vocab_size_per_layer_input: int = 262_144
    hidden_size_per_layer_input: int = 256
    attention_k_eq_v: bool = False
    num_kv_shared_layers: int = 0
    enable_moe_block: bool = False
    use_double_wide_mlp: bool = False
    num_experts: int = 0
    top_k_experts: int = 0
    moe_intermediate_size: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Gemma4TextConfig":
        """Read a ``config.json`` (or its ``text_config``); unknown fields are left aside."""
        found = known(cls, values) | _from_per_layer_config(values)
        if found.get("model_type") == UNIFIED_TEXT:
            found = _UNIFIED_DEFAULTS | found
            # Here null says something: without the field pictures see one another.
            found["use_bidirectional_attention"] = values.get("use_bidirectional_attention", "vision")
        if isinstance(found.get("layer_types"), list):
            found["layer_types"] = tuple(found["layer_types"])
        return cls(**found)

    def __post_init__(self) -> None:
        expect_counts(self, _COUNTS)
        expect_types(self)
        layers = self.num_hidden_layers
        expect(layers <= MOST_LAYERS, "num_hidden_layers", layers, f"at most {MOST_LAYERS}")
        if not self.layer_types:  # five sliding layers, then a full one; the last layer is full in any case
            pattern = [FULL if (i + 1) % 6 == 0 else SLIDING for i in range(self.num_hidden_layers)]
            object.__setattr__(self, "layer_types", (*pattern[:-1], FULL))
        self._validate_layers()
        for kind in set(self.layer_types):
            self._validate_layer_type(kind)
        self._validate_switches()
        self._validate_numbers()
        if self.enable_moe_block:
            self._validate_experts()
        per_layer = self.hidden_size_per_layer_input
        right = 0 <= per_layer * self.num_hidden_layers <= LARGEST
        expect(right, "hidden_size_per_layer_input", per_layer, "the width of an embedding, or 0")
        if per_layer:
            own = self.vocab_size_per_layer_input
            right = is_count(own, self.vocab_size)
            expect(right, "vocab_size_per_layer_input", own, f"vocab_size, {self.vocab_size}, or more")
        padding = is_count(self.pad_token_id, 0) and self.pad_token_id < self.vocab_size
        expect(padding, "pad_token_id", self.pad_token_id, "an id of the vocabulary")

    def _validate_layers(self) -> None:
        layers, shared, types = self.num_hidden_layers, self.num_kv_shared_layers, self.layer_types
        expect(len(types) == layers, "the length of layer_types", len(types), f"num_hidden_layers, {layers}")
        unknown = sorted(set(types) - set(LAYER_TYPES))
        expect(not unknown, "layer_types", unknown, f"only {SLIDING} and {FULL}")
        right = 0 <= shared <= layers
        expect(right, "num_kv_shared_layers", shared, f"0 to num_hidden_layers, {layers}")
        owners, readers = set(types[: layers - shared]), set(types[layers - shared :])
        right = not owners or readers <= owners  # an assistant's layers own nothing: they read its target's
        expect(right, "num_kv_shared_layers", shared, "fewer: a layer of each type must own keys and values")

    def _validate_layer_type(self, kind: str) -> None:
        heads, kv_heads = self.num_attention_heads, self.kv_heads(kind)
        divides = is_count(kv_heads) and heads % kv_heads == 0
        expect(divides, f"KV heads of {kind}", kv_heads, f"a divisor of num_attention_heads, {heads}")
        entries = sorted(self.rope_parameters)
        expect(kind in self.rope_parameters, "rope_parameters", entries, f"an entry for {kind}")
        rope_type = self.rope_parameters[kind].get("rope_type", "default")
        right = rope_type in ("default", "proportional")
        expect(right, f"rope_type of {kind}", rope_type, "default or proportional")
        theta, turning = (self.rope_parameters[kind].get(name) for name in ("rope_theta", "partial_rotary_factor"))
        expect(is_number(theta) and theta > 0, f"rope_theta of {kind}", theta, "a positive number")
        right = turning is None or (is_number(turning) and 0 <= turning <= 1)
        expect(right, f"partial_rotary_factor of {kind}", turning, "a number from 0 to 1")
        width = heads * self.head_dim_of(kind)
        expect(width <= LARGEST, f"the width of all heads of {kind}", width, f"at most {LARGEST}")

    def _validate_switches(self) -> None:
        activation, mutual = self.hidden_activation, self.use_bidirectional_attention
        expect(activation == "gelu_pytorch_tanh", "hidden_activation", activation, "gelu_pytorch_tanh")
        expect(not self.attention_bias, "attention_bias", self.attention_bias, "false")
        expect(mutual != "all", "use_bidirectional_attention", mutual, "null or vision: a decoder")

    def _validate_numbers(self) -> None:
        epsilon, cap, intermediate = self.rms_norm_eps, self.final_logit_softcapping, self.intermediate_size
        expect(epsilon >= 0, "rms_norm_eps", epsilon, "0 or more")
        window = self.sliding_window
        expect(window <= _WIDEST_WINDOW, "sliding_window", window, f"at most {_WIDEST_WINDOW}")
        expect(cap is None or cap > 0, "final_logit_softcapping", cap, "null or a positive number")
        expect(2 * intermediate <= LARGEST, "intermediate_size", intermediate, f"at most {LARGEST // 2}")

    def _validate_experts(self) -> None:
        names = ("num_experts", "top_k_experts", "moe_intermediate_size")
        expect_counts(self, names, expected="a positive integer, since enable_moe_block is set")
        right = self.top_k_experts <= self.num_experts
        expect(right, "top_k_experts", self.top_k_experts, f"at most {self.num_experts}")
        width = self.moe_intermediate_size
        expect(2 * width <= LARGEST, "moe_intermediate_size", width, f"at most {LARGEST // 2}")

    @property
    def num_kv_layers(self) -> int:
        """How many layers own keys and values; the later ones read those of the last owner of their type."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    def head_dim_of(self, layer_type: str) -> int:
        return self.global_head_dim if layer_type == FULL else self.head_dim

    @property
    def mutual_everywhere(self) -> bool:
        """Whether a picture's tokens see one another in all layers, not only in sliding ones within the window.

        In the 12B they do, as transformers' ``Gemma4UnifiedModel`` generates by default; with a static cache it would
        restrict them as the others do.
        """
        return self.model_type == UNIFIED_TEXT

    def kv_heads(self, layer_type: str) -> int:
        """KV heads of a layer type; full layers have a number of their own only where keys serve as values."""
        if layer_type == FULL and self.attention_k_eq_v and self.num_global_key_value_heads is not None:
            return self.num_global_key_value_heads
        return self.num_key_value_heads

    def last_kv_layer(self, layer_type: str) -> int:
        """Index of the last layer of a type that owns keys and values: the one whose cache is shared."""
        owners = [i for i in range(self.num_kv_layers) if self.layer_types[i] == layer_type]
        if not owners:
            raise InputError(f"config.json: no layer of type {layer_type} owns keys and values to share")
        return owners[-1]


_SPELLED = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}


def _from_per_layer_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Head dim and KV heads of the full layers from ``per_layer_config``, whose keys are layer numbers."""
    overrides, layer_types = read_part(values, "per_layer_config"), values.get("layer_types") or ()
    if not overrides:
        return {}
    expect(isinstance(layer_types, Sequence), "layer_types", layer_types, "a list")
    found: dict[str, set[int]] = {name: set() for name in _SPELLED}
    for index, override in overrides.items():
        _check_override(str(index), override, layer_types)
        for name, value in override.items():
            found[name].add(value)
    several = {name: sorted(values) for name, values in found.items() if len(values) > 1}
    if several:
        raise InputError(f"config.json: per_layer_config differs between {FULL} layers: {several}, expected one value")
    # A layer type that the dictionary leaves out has the general head dim.
    general = {"global_head_dim": values.get("head_dim", Gemma4TextConfig.head_dim)}
    return general | {_SPELLED[name]: values.pop() for name, values in found.items() if values}


def _check_override(index: str, override: Mapping[str, Any], layer_types: Sequence[str]) -> None:
    if not index.isdecimal() or int(index) >= len(layer_types):
        raise InputError(f"config.json: per_layer_config names layer {index!r}, expected 0 to {len(layer_types) - 1}")
    right = isinstance(override, Mapping) and override.keys() <= _SPELLED.keys()
    right = right and layer_types[int(index)] == FULL and all(map(is_count, override.values()))
    expected = f"head_dim or num_key_value_heads of a {FULL} layer"
    expect(right, f"per_layer_config[{index!r}]", override, expected)


_ASSISTANT_FILE = "config.json of the assistant"


@dataclass(frozen=True)
class Gemma4AssistantConfig:
    """A drafter (transformers' ``Gemma4AssistantConfig``, ``Gemma4UnifiedAssistantConfig``).

    Raises:
        InputError: as transformers' ``validate_architecture``, with the value found and the value expected.
    """

    text_config: Gemma4TextConfig
    model_type: str = "gemma4_assistant"
    backbone_hidden_size: int = 1536
    use_ordered_embeddings: bool = False
    num_centroids: int = 2048
    centroid_intermediate_top_k: int = 32
    tie_word_embeddings: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read an assistant's ``config.json``."""
        text = dict(read_part(values, "text_config", file=_ASSISTANT_FILE))
        if not text:
            raise InputError(f"{_ASSISTANT_FILE} has no text_config")
        text.setdefault("hidden_size_per_layer_input", 0)
        text.setdefault("vocab_size_per_layer_input", 0)
        if not text.get("num_kv_shared_layers"):
            text["num_kv_shared_layers"] = text.get("num_hidden_layers", Gemma4TextConfig.num_hidden_layers)
        return cls(**known(cls, values) | {"text_config": Gemma4TextConfig.from_dict(text)})

    def __post_init__(self) -> None:
        expect_types(self, file=_ASSISTANT_FILE)
        text, backbone = self.text_config, self.backbone_hidden_size
        right = is_count(backbone) and 2 * backbone <= LARGEST
        expect(right, "backbone_hidden_size", backbone, "a positive integer", file=_ASSISTANT_FILE)
        expected: Iterable[tuple[str, Any, Any]] = (
            ("hidden_size_per_layer_input", text.hidden_size_per_layer_input, 0),
            ("vocab_size_per_layer_input", text.vocab_size_per_layer_input, 0),
            ("enable_moe_block", text.enable_moe_block, False),
            ("use_double_wide_mlp", text.use_double_wide_mlp, False),
            ("num_kv_shared_layers", text.num_kv_shared_layers, text.num_hidden_layers),
            ("tie_word_embeddings", self.tie_word_embeddings, True),
        )
        for name, found, right in expected:
            expect(found == right, name, found, repr(right), file=_ASSISTANT_FILE)
        if self.use_ordered_embeddings:
            self._validate_centroids()

    def _validate_centroids(self) -> None:
        vocabulary, centroids, top_k = self.text_config.vocab_size, self.num_centroids, self.centroid_intermediate_top_k
        divides = is_count(centroids) and vocabulary % centroids == 0
        expect(divides, "num_centroids", centroids, f"a divisor of vocab_size, {vocabulary}", file=_ASSISTANT_FILE)
        right = is_count(top_k) and top_k <= centroids
        allowed = f"1 to num_centroids, {centroids}"
        expect(right, "centroid_intermediate_top_k", top_k, allowed, file=_ASSISTANT_FILE)


def read_target_config(values: Mapping[str, Any]) -> Gemma4TextConfig:
    """The text configuration of any published target, from its ``config.json``."""
    model_type = values.get("model_type")
    if model_type in ASSISTANT_MODEL_TYPES:
        raise InputError(
            f"this is an assistant (model_type {model_type}), not a target: give it as the assistant model"
        )
    if not isinstance(model_type, str) or model_type not in TARGET_MODEL_TYPES:
        raise InputError(
            f"not a Gemma 4: model_type is {model_type!r:.100}, expected one of {', '.join(TARGET_MODEL_TYPES)}"
        )
    text = values if model_type.endswith("_text") else read_part(values, "text_config")
    if not text:
        raise InputError(f"config.json of model_type {model_type} has no text_config")
    config = Gemma4TextConfig.from_dict({"model_type": f"{model_type.removesuffix('_text')}_text"} | dict(text))
    shared = config.num_kv_shared_layers
    expect(config.num_kv_layers > 0, "num_kv_shared_layers", shared, "fewer: a target owns keys and values")
    return config


def read_assistant_config(values: Mapping[str, Any]) -> Gemma4AssistantConfig:
    """The configuration of any published assistant, from its ``config.json``."""
    model_type = values.get("model_type")
    if model_type not in ASSISTANT_MODEL_TYPES:
        expected = " or ".join(ASSISTANT_MODEL_TYPES)
        raise InputError(f"not a Gemma 4 assistant: model_type is {model_type!r:.100}, expected {expected}")
    return Gemma4AssistantConfig.from_dict(values)


def check_pair(target: Gemma4TextConfig, assistant: Gemma4AssistantConfig) -> None:
    """Refuse an assistant that was made for another target.

    Raises:
        InputError: the first difference found, with both values.
    """
    text = assistant.text_config
    pairs: list[tuple[str, Any, Any]] = [
        ("backbone_hidden_size", assistant.backbone_hidden_size, target.hidden_size),
        ("vocab_size", text.vocab_size, target.vocab_size),
        ("sliding_window", text.sliding_window, target.sliding_window),
    ]
    for kind in sorted(set(text.layer_types)):
        target.last_kv_layer(kind)
        pairs.append((f"head dim of {kind}", text.head_dim_of(kind), target.head_dim_of(kind)))
        pairs.append((f"KV heads of {kind}", text.kv_heads(kind), target.kv_heads(kind)))
    for name, found, needed in pairs:
        if found != needed:
            raise InputError(
                f"the assistant does not belong to this target: its {name} is {found}, the target's is {needed}"
            )
