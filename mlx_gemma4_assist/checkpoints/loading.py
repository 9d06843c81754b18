"""Loading a target or an assistant: config, weights, data type; evaluated, ready for any thread."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import mlx.core as mx
import mlx.nn as nn

from ..backend import DTYPES, dtype_of, ending_in_order, on_gpu, wake_compiler
from ..errors import InputError
from ..files import read_json, read_part
from ..models.config import read_assistant_config, read_target_config
from ..models.cpu import in_columns
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..models.network import Network, named_parameters
from ..models.towers import Gemma4Towers, UnifiedTowers, towers_of
from .adapter import Adapter
from .hub import resolve
from .quantized import quantize_layers, read_quantization
from .weights import assign, read_weights

Model = TypeVar("Model", bound=Network)
PathOrRepo = str | os.PathLike[str]


def load_model(
    path_or_repo: PathOrRepo,
    *,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
    adapter_path: str | os.PathLike[str] | None = None,
) -> Gemma4ForCausalLM:
    """A target's text network, in memory and in evaluation mode. Towers for pictures and sound are never read.

    Args:
        path_or_repo: an alias, a folder, or a repo on the Hub: see ``resolve``.
        dtype: what to compute in. None follows config.json as transformers' ``dtype="auto"`` does: floating-point
            tensors are cast to its ``dtype`` if they were saved in another; a checkpoint quantized by MLX stays as it
            is, because its config often still names the type from before the conversion. "float32", "bfloat16" and
            "float16" (or MLX's own) cast every floating-point parameter, the scales and biases of affine quantization
            among them, since they decide what a quantized layer computes in.
        revision: a branch, tag or commit of the repo.
        adapter_path: the folder of an adapter that mlx-lm has written, which is merged into the weights.

    Raises:
        InputError: no such checkpoint, not a Gemma 4, damaged or misfitting weights: one sentence that names it.
    """
    folder = resolve(path_or_repo, revision=revision)
    config = read_json(folder / "config.json")

    def load() -> Gemma4ForCausalLM:
        adapter = None if adapter_path is None else Adapter.open(adapter_path)  # in the thread that reads its weights
        model = Gemma4ForCausalLM(read_target_config(config))
        model.adapter = "" if adapter is None else adapter.digest()
        return _load(folder, config, dtype, model, model.model.layers, adapter)

    return ending_in_order(load)


def load_assistant(
    path_or_repo: PathOrRepo, *, dtype: str | mx.Dtype | None = None, revision: str | None = None
) -> Gemma4AssistantForCausalLM:
    """A drafter. Arguments and errors as for ``load_model``."""
    folder = resolve(path_or_repo, revision=revision)
    config = read_json(folder / "config.json")

    def load() -> Gemma4AssistantForCausalLM:
        model = Gemma4AssistantForCausalLM(read_assistant_config(config))
        _load(folder, config, dtype, model, model.model.layers)
        _check_token_ordering(model, folder)
        return model

    return ending_in_order(load)


def _check_token_ordering(assistant: Gemma4AssistantForCausalLM, folder: Path) -> None:
    """Refuse a centroid head whose ids lie beyond the vocabulary: MLX would read memory that is not the table's.

    Raises:
        InputError: with the id.
    """
    if not assistant.config.use_ordered_embeddings:
        return
    ordering, vocabulary = assistant.masked_embedding.token_ordering, assistant.config.text_config.vocab_size
    for token in (cast(int, mx.min(ordering).item()), cast(int, mx.max(ordering).item())):
        if not 0 <= token < vocabulary:
            raise InputError(f"{folder}: token_ordering has the id {token}, expected 0 to {vocabulary - 1}")


def load_towers(
    path_or_repo: PathOrRepo, *, dtype: str | mx.Dtype | None = None, revision: str | None = None
) -> Gemma4Towers | UnifiedTowers | None:
    """What a target sees and hears with; None for a text-only one. Arguments and errors as for ``load_model``."""
    folder = resolve(path_or_repo, revision=revision)
    config = read_json(folder / "config.json")

    def load() -> Gemma4Towers | UnifiedTowers | None:
        towers = towers_of(config)
        return None if towers is None else _load(folder, config, dtype, towers, [])

    return ending_in_order(load)


class Held(NamedTuple):
    """What a network holds once it is loaded.

    Attributes:
        nbytes: of its parameters.
        dtype: of most floating-point ones, which keys and values have, too.
    """

    nbytes: int
    dtype: mx.Dtype


def held(network: Network, folder: Path, dtype: str | mx.Dtype | None = None) -> Held:
    """What a network will hold once it is loaded from a folder; only headers are read.

    Args:
        network: as its config.json describes it; it is not changed.
        dtype: as for ``load_model``.

    Raises:
        InputError: files that are missing or damaged.
    """
    config = read_json(folder / "config.json")
    wanted = _computed_in(config, dtype, read_quantization(config) is not None)
    weights = read_weights(folder, lambda name: network.parameter_name(name) is not None)
    nbytes, floating = 0, Counter({wanted or mx.bfloat16: 0})
    for array in network.sanitize(weights).values():
        is_floating = mx.issubdtype(array.dtype, mx.floating)
        kept = wanted if wanted is not None and is_floating else array.dtype
        nbytes += array.size * kept.size
        if is_floating:
            floating[kept] += array.size
    return Held(nbytes, floating.most_common(1)[0][0])


def _load(
    folder: Path,
    config: Mapping[str, Any],
    dtype: str | mx.Dtype | None,
    model: Model,
    parts: Sequence[nn.Module],
    adapter: Adapter | None = None,
) -> Model:
    """Give an untrained model its checkpoint's weights; its large ``parts`` are evaluated one by one."""
    _assign(folder, config, dtype, model)
    if adapter is not None:
        adapter.merge(model)
    if not on_gpu():
        lay_out_by_columns(model)
    # Evaluated, because a lazy array is bound to the stream of the thread that first asks for it.
    for part in parts:
        mx.eval(named_parameters(part))
    mx.eval(named_parameters(model))
    wake_compiler()
    model.eval()
    return model


def _assign(folder: Path, config: Mapping[str, Any], dtype: str | mx.Dtype | None, model: Network) -> None:
    """Give an untrained model its checkpoint's weights, which are read when they are evaluated.

    Layer by layer, and held by nobody else, what was read is freed as soon as it is cast or split.
    """
    quantization = read_quantization(config)
    wanted = _computed_in(config, dtype, quantization is not None)
    weights = read_weights(folder, lambda name: model.parameter_name(name) is not None)
    weights = model.sanitize(weights)
    if quantization:
        quantize_layers(model, quantization, weights, model.parameter_name)
    if wanted is not None:
        weights = {name: _cast(array, wanted) for name, array in weights.items()}
    assign(model, weights, folder)


def unread_model(folder: Path, dtype: str | mx.Dtype | None = None) -> Gemma4ForCausalLM:
    """A target whose weights are not read before they are evaluated, in this thread. Arguments and errors as for
    ``load_model``."""
    config = read_json(folder / "config.json")
    model = Gemma4ForCausalLM(read_target_config(config))
    _assign(folder, config, dtype, model)
    return model


def unread_assistant(folder: Path, dtype: str | mx.Dtype | None = None) -> Gemma4AssistantForCausalLM:
    """The same of an assistant."""
    config = read_json(folder / "config.json")
    model = Gemma4AssistantForCausalLM(read_assistant_config(config))
    _assign(folder, config, dtype, model)
    return model


def lay_out_by_columns(model: nn.Module) -> None:
    """Evaluate the float32 matrices of linear layers and tied heads, so that they lie ``in_columns``.

    One by one: there is never a second copy of more than a matrix.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.dtype == mx.float32:
            module.weight = in_columns(module.weight)
            mx.eval(module.weight)


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def _computed_in(config: Mapping[str, Any], dtype: str | mx.Dtype | None, quantized: bool) -> mx.Dtype | None:
    """The type to cast to; None leaves all as it was saved."""
    if dtype is not None:
        return dtype_of(dtype)
    named = None if quantized else config_dtype(config)
    if named is not None and named not in DTYPES:
        raise InputError(f"config.json: dtype is {named!r}, expected {', '.join(DTYPES)}")
    return None if named is None else DTYPES[named]


def config_dtype(config: Mapping[str, Any]) -> str | None:
    """``dtype``, or ``torch_dtype`` as older checkpoints spell it, of the whole or of the text part; None without.

    Raises:
        InputError: it is no text.
    """
    parts = (config, read_part(config, "text_config"))
    named = next((part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key)), None)
    if named is not None and not isinstance(named, str):
        raise InputError(f"config.json: dtype is {named!r:.100}, expected {', '.join(DTYPES)}")
    return named
