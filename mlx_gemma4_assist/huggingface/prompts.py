"""A prompt as transformers' arrays: those that ``generate`` is given, checked, and those that the processor returns."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..media.prepared import NOUNS, Picture, Placed, PreparedPrompt, Sound
from ..text.messages import Kind
from .arrays import to_numpy

TEXT = 0
TYPES = {Kind.PICTURE: 1, Kind.VIDEO: 2, Kind.SOUND: 3}
"""``mm_token_type_ids`` of placeholders."""

_KINDS = {number: kind for kind, number in TYPES.items()}
# Of each kind what is seen or heard, and which of it is no padding.
_ARRAYS = {
    Kind.PICTURE: ("pixel_values", "image_position_ids"),
    Kind.VIDEO: ("pixel_values_videos", "video_position_ids"),
    Kind.SOUND: ("input_features", "input_features_mask"),
}
NAMES = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    *_ARRAYS[Kind.PICTURE],
    *_ARRAYS[Kind.VIDEO],
    "num_frames_per_video",
    *_ARRAYS[Kind.SOUND],
)


class ReadPrompt(NamedTuple):
    """One prompt.

    Attributes:
        ids: (1, L) int64 as given, padding included.
        tokens: the same without padding.
        types: of each of these TEXT or one of TYPES.
        media: of each kind that was given its two arrays, as transformers has them.
    """

    ids: np.ndarray
    tokens: list[int]
    types: list[int]
    media: Mapping[Kind, tuple[np.ndarray, np.ndarray]]

    def prepared(self) -> PreparedPrompt:
        """The prompt for the towers: the n-th run of placeholders of a kind is for the n-th picture, frame or sound.

        Raises:
            InputError: there are more of one than of the other.
        """
        waiting = {kind: zip(*self.media.get(kind, ((), ())), strict=True) for kind in Kind}
        placed = []
        for kind, start, count in self._runs():
            arrays = next(waiting[kind], None)
            if arrays is None:
                raise InputError(f"a {NOUNS[kind]} has {count} placeholders in the prompt, and nothing to put there")
            values, where = arrays
            content = Sound(values, where, count) if kind is Kind.SOUND else Picture(values, where, count)
            placed.append(Placed(kind, start, content))
        for kind, those in waiting.items():
            if next(those, None) is not None:
                raise InputError(f"there are more {NOUNS[kind]}s than the prompt has placeholders for")
        return PreparedPrompt(self.tokens, tuple(placed))

    def _runs(self) -> Iterator[tuple[Kind, int, int]]:
        """The kind, first position and length of each run of placeholders."""
        position = 0
        for number, run in groupby(self.types):
            length = len(list(run))
            if number != TEXT:
                yield _KINDS[number], position, length
            position += length


def read_prompt(arrays: Mapping[str, Any], placeholders: Mapping[int, int]) -> ReadPrompt:
    """Check the arrays of a call; those that are None are left aside.

    Args:
        arrays: by the names in ``NAMES``, of any kind; what there is per token (1, L).
        placeholders: token ids of soft tokens, and their types, for calls without ``mm_token_type_ids``.

    Raises:
        InputError: no or several prompts, gaps in a mask, arrays that do not fit together.
    """
    found = {name: to_numpy(value, name) for name, value in arrays.items() if value is not None}
    if "input_ids" not in found:
        raise InputError("input_ids are missing: generate continues a prompt")
    ids = _per_token(found, "input_ids", None)
    begin = _not_padding(found, ids.shape[1])
    tokens = ids[0, begin:].tolist()
    if "mm_token_type_ids" in found:
        types = _per_token(found, "mm_token_type_ids", ids.shape)[0, begin:].tolist()
    else:
        types = [placeholders.get(token, TEXT) for token in tokens]
    unknown = set(types) - {TEXT, *_KINDS}
    if unknown:
        raise InputError(f"mm_token_type_ids has {min(unknown)} in it, expected 0 to {max(_KINDS)}")
    return ReadPrompt(ids, tokens, types, dict(_media(found)))


def named_arrays(prompt: PreparedPrompt) -> dict[str, np.ndarray]:
    """A prompt as transformers' ``Gemma4Processor`` returns it: a batch of one.

    Returns:
        What there is per token (1, L) int64, by transformers' names; pictures, frames and sounds each in a batch of
        their own, padded to a common size.
    """
    types = np.full((1, len(prompt.tokens)), TEXT, dtype=np.int64)
    for each in prompt.media:
        types[0, each.start : each.end] = TYPES[each.kind]
    arrays = {
        "input_ids": np.array([prompt.tokens], dtype=np.int64),
        "attention_mask": np.ones((1, len(prompt.tokens)), dtype=np.int64),
        "mm_token_type_ids": types,
    }
    for kind, names in _ARRAYS.items():
        contents = [each.content for each in prompt.media if each.kind is kind]
        if contents:
            arrays |= dict(zip(names, _stacked(contents), strict=True))
    if prompt.video_frames:
        arrays["num_frames_per_video"] = np.array(prompt.video_frames, dtype=np.int64)
    return arrays


def _stacked(contents: Sequence[Picture | Sound]) -> tuple[np.ndarray, np.ndarray]:
    """What is seen or heard (B, N, values), and which of it is no padding: positions (B, N, 2), -1 for padding, or
    (B, N) bool."""
    values = [each.patches if isinstance(each, Picture) else each.features for each in contents]
    where = [each.positions if isinstance(each, Picture) else each.heard for each in contents]
    nothing = -1 if isinstance(contents[0], Picture) else False
    longest = max(map(len, values))
    return (
        np.stack([_padded(each, longest, 0) for each in values]),
        np.stack([_padded(each, longest, nothing) for each in where]),
    )


def _padded(array: np.ndarray, length: int, value: int) -> np.ndarray:
    widths = [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, widths, constant_values=value)


def _per_token(found: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    array = found[name]
    if array.ndim == 2 and array.shape[0] > 1:
        raise InputError(f"{name} has {array.shape[0]} rows, but generate continues one prompt at a time")
    if array.ndim != 2 or array.shape[0] != 1 or array.shape[1] == 0 or array.shape != (shape or array.shape):
        raise InputError(f"{name} has the shape {array.shape}, expected {shape or '(1, length)'}")
    if array.dtype.kind == "f":
        raise InputError(f"{name} has the type {array.dtype}, expected integers")
    return array.astype(np.int64)


def _not_padding(found: Mapping[str, np.ndarray], length: int) -> int:
    """Where the prompt begins: after the padding on its left."""
    if "attention_mask" not in found:
        return 0
    mask = _per_token(found, "attention_mask", (1, length))[0]
    begin = length - int(np.count_nonzero(mask))
    if begin == length or not mask[begin:].all():
        raise InputError("attention_mask hides more than padding before the prompt, which is not supported")
    return begin


def _media(found: Mapping[str, np.ndarray]) -> Iterator[tuple[Kind, tuple[np.ndarray, np.ndarray]]]:
    """Each kind that is there, and its two arrays."""
    for kind, (first, second) in _ARRAYS.items():
        if (first in found) != (second in found):
            there, missing = (first, second) if first in found else (second, first)
            raise InputError(f"{there} needs {missing}, which the processor returns with it")
        if first not in found:
            continue
        values, where = found[first], found[second]
        expected = values.shape[:2] if kind is Kind.SOUND else (*values.shape[:2], 2)
        if values.ndim != 3 or where.shape != expected:
            raise InputError(f"{first} of shape {values.shape} and {second} of shape {where.shape} do not fit together")
        yield kind, (values.astype(np.float32), where.astype(np.bool_ if kind is Kind.SOUND else np.int64))
