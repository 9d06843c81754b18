"""The arrays that ``generate`` is given, checked: one prompt."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..media.inputs import TEXT, ModelInputs
from .arrays import to_numpy

NAMES = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "pixel_values",
    "image_position_ids",
    "pixel_values_videos",
    "video_position_ids",
    "num_frames_per_video",
    "input_features",
    "input_features_mask",
)
# Each pair belongs together: what is seen or heard, and which of it is no padding.
_PAIRS = (
    ("pixel_values", "image_position_ids", np.int64),
    ("pixel_values_videos", "video_position_ids", np.int64),
    ("input_features", "input_features_mask", np.bool_),
)


class ReadPrompt(NamedTuple):
    """One prompt.

    Attributes:
        ids: (1, L) int64 as given, padding included.
        inputs: the same without padding, and its media.
    """

    ids: np.ndarray
    inputs: ModelInputs


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
    kept = _not_padding(found, ids.shape[1])
    tokens = ids[0, kept:].tolist()
    if "mm_token_type_ids" in found:
        types = _per_token(found, "mm_token_type_ids", ids.shape)[0, kept:].tolist()
    else:
        types = [placeholders.get(token, TEXT) for token in tokens]
    media: dict[str, Any] = {}
    for first, second, dtype in _PAIRS:
        if (first in found) != (second in found):
            there, missing = (first, second) if first in found else (second, first)
            raise InputError(f"{there} needs {missing}, which the processor returns with it")
        if first in found:
            media |= _pair(found, first, second, dtype)
    frames = found.get("num_frames_per_video")
    if frames is not None:
        media["video_frames"] = tuple(frames.reshape(-1).tolist())
    return ReadPrompt(ids, ModelInputs(tokens, types, **media))


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


def _pair(found: Mapping[str, np.ndarray], first: str, second: str, dtype: Any) -> dict[str, np.ndarray]:
    values, where = found[first], found[second]
    expected = (*values.shape[:2], 2) if second.endswith("position_ids") else values.shape[:2]
    if values.ndim != 3 or where.shape != expected:
        raise InputError(f"{first} of shape {values.shape} and {second} of shape {where.shape} do not fit together")
    return {first: values.astype(np.float32), second: where.astype(dtype)}
