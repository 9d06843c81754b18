"""Token ids as callers have them: lists, arrays of any library, what a tokenizer of transformers returns."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, Protocol, SupportsIndex, runtime_checkable

from ..errors import InputError


@runtime_checkable
class Array(Protocol):
    """An array of NumPy, MLX or PyTorch."""

    def tolist(self) -> Any: ...


def read_token_ids(prompt: object) -> list[int]:
    """One prompt's ids, as plain integers.

    Args:
        prompt: a sequence of integers, an array (L,) or (1, L) of integers, or a mapping with such ``input_ids``.

    Raises:
        InputError: something else, several prompts, or a number that is no token id.
    """
    if isinstance(prompt, Mapping) and "input_ids" in prompt:
        return read_token_ids(prompt["input_ids"])
    ids = prompt.tolist() if isinstance(prompt, Array) else prompt
    if isinstance(ids, str | bytes | bytearray) or not isinstance(ids, Sequence):
        raise InputError(f"the prompt is {type(prompt).__name__}, expected text, token ids or messages")
    if ids and isinstance(ids[0], Sequence):
        if len(ids) > 1:
            raise InputError(f"the prompt has {len(ids)} rows of token ids, expected one")
        return read_token_ids(ids[0])
    return [_token_id(item) for item in ids]


def _token_id(item: Any) -> int:
    try:
        token = -1 if isinstance(item, bool) else index(item)
    except TypeError:
        token = -1
    if token < 0:
        raise InputError(f"the prompt has token ids, and {item!r} among them, which is none")
    return token


def has_token_ids(items: Sequence[object]) -> bool:
    """Whether a sequence is meant as token ids, in rows or not: it may not be messages."""
    return any(isinstance(item, SupportsIndex | list | tuple | Array) for item in items)
