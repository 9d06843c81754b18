"""How large an engine's prefix cache is, and where it is kept."""

import os
from pathlib import Path

import mlx.core as mx

from ..backend import usable_bytes, wired_limit_bytes
from ..cache.chain import CHUNK
from ..cache.layout import CacheLayout
from ..cache.points import full_bytes, window_bytes
from ..cache.quantization import KVQuantization
from ..errors import InputError, described
from ..models.config import Gemma4TextConfig
from .pair import Pair
from .prefix import PrefixCache
from .prefix_folder import PrefixFolder

MOST_BYTES = 2 * 2**30
SHARE = 16  # of what MLX may use
FOLDER_BYTES = 10 * 2**30
CONVERSATION_SHARE = 4  # of what MLX may use
POINTS = 16  # restore points of a conversation: about three of a turn


def prefix_cache(
    pair: Pair, nbytes: int | None, folder: str | os.PathLike[str] | None, folder_bytes: int
) -> PrefixCache:
    """A prefix cache for a pair.

    Args:
        pair: whose keys and values it keeps.
        nbytes: of these, in memory; None is ``default_bytes``.
        folder: where they are kept for later processes; None writes nothing.
        folder_bytes: the most that the folder's files take.

    Raises:
        InputError: no numbers of bytes, no folder, or a folder without any memory.
    """
    budget = default_bytes() if nbytes is None else _bytes("prefix_cache_bytes", nbytes)
    if folder is None:
        return PrefixCache(budget)
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"prefix_cache_folder is {described(folder)}, expected a folder")
    if not budget:
        raise InputError("prefix_cache_folder needs memory, but prefix_cache_bytes is 0")
    limit = _bytes("prefix_cache_folder_bytes", folder_bytes)
    return PrefixCache(budget, PrefixFolder(Path(folder).expanduser(), limit, pair.fingerprint))


def default_bytes() -> int:
    """A share of the memory that MLX may use."""
    info = mx.device_info()
    memory = int(info.get("memory_size") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(MOST_BYTES, (wired_limit_bytes(info) or memory) // SHARE)


def conversation_bytes(
    config: Gemma4TextConfig,
    memory: int | None = None,
    *,
    dtype: mx.Dtype = mx.bfloat16,
    quantization: KVQuantization | None = None,
) -> int:
    """How large a prefix cache is that holds one conversation up to the model's context, or a quarter of the memory.

    A conversation takes the keys and values of all its tokens in full layers once, and for each restore point a window
    of all sliding layers. Counted are the points of a few turns, so that the last ones can be taken back, edited or
    answered again without reading more than what is new.

    Chosen from counts of bytes, not measured on a Mac.

    Args:
        config: the target's.
        memory: bytes that MLX may use; None is what the default device recommends, or all that there is.
        dtype: of keys and values that are not quantized.
        quantization: of keys and values in full layers; None where they are dense.

    Returns:
        Bytes, for ``Engine(prefix_cache_bytes=...)``.
    """
    layout, context = CacheLayout(config, 0, dtype, quantization), config.max_position_embeddings
    point = window_bytes(layout, min(context, layout.window)) + full_bytes(layout, 0, CHUNK) + config.hidden_size * 4
    whole = full_bytes(layout, 0, context) + POINTS * point
    return min(whole, (usable_bytes() if memory is None else memory) // CONVERSATION_SHARE)


def _bytes(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name} is {described(value)}, expected a number of bytes")
    return value
