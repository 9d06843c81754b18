"""How ``generate`` decodes: its arguments, over a ``generation_config``, over the checkpoint's, over defaults."""

import warnings
from collections.abc import Mapping
from operator import index
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..errors import InputError
from ..options import GenerationOptions, integer, number
from ..text.token_ids import Array

Values = Mapping[str, Any]
DEFAULT_NEW_TOKENS = 20
# transformers' ``GenerationConfig._get_default_generation_params``.
DEFAULTS: Values = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "max_new_tokens": None,
    "max_length": None,
    "num_assistant_tokens": None,
    "eos_token_id": None,
    "suppress_tokens": None,
}
NEUTRAL: Values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
"""The filters, and what leaves the distribution as it is."""

# What configurations carry besides: ids that one prompt has no use for, how transformers itself goes about it, and
# settings that change nothing at these values.
_IRRELEVANT = {
    "assistant_confidence_threshold",
    "bos_token_id",
    "cache_implementation",
    "num_assistant_tokens_schedule",
    "pad_token_id",
    "transformers_version",
    "use_cache",
}
_CHANGES_NOTHING: Values = {
    "diversity_penalty": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "length_penalty": 1,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "typical_p": 1,
}


@runtime_checkable
class GenerationConfig(Protocol):
    """transformers' class of that name."""

    def to_diff_dict(self) -> dict[str, Any]: ...


class ReadOptions(NamedTuple):
    """One call's options, checked and complete.

    Attributes:
        generation: how the text is generated; repetition penalties are among its logits processors.
        stop_tokens: ids that end a text.
        suppress_tokens: ids that are never generated.
    """

    generation: GenerationOptions
    stop_tokens: frozenset[int]
    suppress_tokens: tuple[int, ...]


def read_options(
    arguments: Values,
    generation_config: GenerationConfig | Values | None,
    checkpoint: Values,
    prompt_length: int,
    seed: int | None = None,
) -> ReadOptions:
    """One call's options. None among the arguments means none (no filter, no stop), elsewhere that nothing is said.

    Args:
        arguments: of the call, by the names in ``DEFAULTS``.
        generation_config: transformers' object, or its values.
        checkpoint: its ``generation_config.json``.
        prompt_length: tokens, padding included, which ``max_length`` counts.
        seed: makes sampling repeatable.

    Raises:
        InputError: a value out of its range; a setting in a configuration that is not supported.
    """
    values = {**DEFAULTS, **said(arguments, generation_config, checkpoint)}
    sampled = values["do_sample"]
    if sampled not in (True, False, None):
        raise InputError(f"do_sample is {sampled!r}, expected True or False")
    filters = {name: _number(values, name, neutral) for name, neutral in NEUTRAL.items()}
    if not sampled:
        _warn_of_filters(said(arguments, generation_config, {}))
        filters = {**NEUTRAL, "temperature": 0.0}
    else:
        for name in ("temperature", "top_p"):
            if not filters[name] > 0:
                greedy = ": greedy decoding is do_sample=False" if name == "temperature" else ""
                raise InputError(f"{name} is {filters[name]}, expected more than 0{greedy}")
    penalty = _number(values, "repetition_penalty", 1.0)
    if not penalty > 0:
        raise InputError(f"repetition_penalty is {penalty}, expected more than 0")
    generation = GenerationOptions(
        max_tokens=_new_tokens(values, prompt_length),
        num_assistant_tokens=_count(values, "num_assistant_tokens", least=0),
        seed=seed,
        repetition_penalty=penalty,
        **filters,
    )
    return ReadOptions(generation, frozenset(_ids(values, "eos_token_id")), _ids(values, "suppress_tokens"))


def said(arguments: Values, generation_config: GenerationConfig | Values | None, checkpoint: Values) -> dict[str, Any]:
    """What is set by anything but the defaults; errors as for :func:`read_options`."""
    return {**_said(checkpoint, "generation_config.json"), **_said(generation_config, "generation_config"), **arguments}


def _said(config: GenerationConfig | Values | None, name: str) -> dict[str, Any]:
    """The settings of a configuration that are not None.

    Raises:
        InputError: there is one among them that would do nothing here.
    """
    if isinstance(config, GenerationConfig):
        config = config.to_diff_dict()
    if config is not None and not isinstance(config, Mapping):
        raise InputError(f"{name} is {type(config).__name__}, expected transformers' GenerationConfig or a dict")
    settings = {}
    for key, value in (config or {}).items():
        beside = key in _IRRELEVANT or key.startswith("_") or value is False or value == _CHANGES_NOTHING.get(key)
        if value is not None and (key in DEFAULTS or not beside):
            settings[key] = value
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise InputError(f"{name} sets {', '.join(unknown)}, which is not supported")
    return settings


def _new_tokens(values: Values, prompt_length: int) -> int:
    new, longest = _count(values, "max_new_tokens", least=1), _count(values, "max_length", least=1)
    if new is not None and longest is not None:
        warnings.warn(f"max_new_tokens, {new}, counts, although max_length, {longest}, is set, too", stacklevel=4)
    if new is not None:
        return new
    if longest is None:
        message = f"neither max_new_tokens nor max_length is set: at most {DEFAULT_NEW_TOKENS} tokens are generated"
        warnings.warn(message, stacklevel=4)
        return DEFAULT_NEW_TOKENS
    if longest <= prompt_length:
        raise InputError(f"max_length is {longest}, but the prompt alone has {prompt_length} tokens")
    return longest - prompt_length


def _warn_of_filters(chosen: Values) -> None:
    for name, neutral in NEUTRAL.items():
        if chosen.get(name) not in (None, neutral):
            warnings.warn(f"{name} is {chosen[name]}, but nothing is drawn: do_sample is False", stacklevel=4)


def _number(values: Values, name: str, if_none: float) -> Any:
    value = values[name]
    if value is None:
        return if_none
    try:
        number(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {value!r}, expected a number") from None
    return value


def _count(values: Values, name: str, least: int) -> int | None:
    value = values[name]
    if value is None:
        return None
    try:
        count = integer(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise InputError(f"{name} is {value!r}, expected an integer, at least {least}")
    return count


def _ids(values: Values, name: str) -> tuple[int, ...]:
    value = values[name]
    ids = value.tolist() if isinstance(value, Array) else value
    ids = () if ids is None else ids if isinstance(ids, list | tuple) else (ids,)
    try:
        read = tuple(-1 if isinstance(i, bool) else index(i) for i in ids)
    except TypeError:
        read = (-1,)
    if any(i < 0 for i in read):
        raise InputError(f"{name} is {value!r}, expected a token id or a list of them")
    return read
