"""How large an engine's prefix cache is, and where it is kept."""

import os
from pathlib import Path

import mlx.core as mx

from ..backend import wired_limit_bytes
from ..errors import InputError, described
from .pair import Pair
from .prefix import PrefixCache
from .prefix_folder import PrefixFolder

MOST_BYTES = 2 * 2**30
SHARE = 16  # of what MLX may use
FOLDER_BYTES = 10 * 2**30


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


def _bytes(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name} is {described(value)}, expected a number of bytes")
    return value
