"""A text's keys and values in a file, from one call of a command to the next."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, OptionError
from ..options import GenerationOptions

if TYPE_CHECKING:
    from ..cache.quantization import KVQuantization
    from ..cache.rows import KVCache
    from ..engine.pair import Pair
    from ..engine.prefill import Progress
    from ..engine.responses import GenerationResponse

REWIND = 512  # tokens by which the text in a file can be gone back, so that its end may be another next time

PromptCacheFile = Annotated[
    Path | None,
    typer.Option(
        "--prompt-cache-file",
        help="Keep the keys and values of prompt and answer in this file (.safetensors), for the next call: what its "
        "prompt, given whole, has in common with them from the beginning is not computed again, unless it departs from "
        f"a long text more than {REWIND} tokens before its end. The file changes no text. It is read first if it "
        "exists, and written at the end, unless nobody may write to it (chmod a-w).",
    ),
]


class CacheFile:
    """The file that a command was told to keep, or none.

    Args:
        path: None keeps nothing.

    Raises:
        InputError: the file cannot be what is wanted, as far as can be seen without a model.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._cache: KVCache | None = None
        self._metadata: dict[str, str] = {}
        self._length = 0  # of the text in the file
        self._computed = 0
        if path is not None:
            _check(path)
            self._fixed = _is_fixed(path)

    def open(self, pair: "Pair", options: GenerationOptions) -> "KVCache | None":
        """What the file holds, or an empty cache if it is not there; None without a file.

        Raises:
            InputError: a file of another model, or of keys that are quantized otherwise; a damaged one.
        """
        if self._path is None:
            return None
        from ..cache.file import read_cache

        new = self.empty(pair, options)
        layout = new.layout
        if self._path.exists():
            self._cache, self._metadata = read_cache(
                self._path, layout.config, pair.dtype, pair.fingerprint, layout.slack
            )
            (self._length,) = self._cache.lengths
            _check_quantization(self._path, self._cache.layout.quantization, layout.quantization)
        else:
            self._cache = new
        return self._cache

    def empty(self, pair: "Pair", options: GenerationOptions) -> "KVCache":
        """A cache for a text that may be gone back in as far as one in a file."""
        from ..cache.layout import CacheLayout
        from ..cache.quantization import kv_quantization
        from ..cache.rows import KVCache
        from ..engine.engine import Engine

        config, slack = pair.target.config, Engine(pair).slack(options.num_assistant_tokens) + REWIND
        layout = CacheLayout(config, slack, pair.dtype, kv_quantization(options, config))
        return KVCache(layout, fingerprint=pair.fingerprint)

    def replace(self, cache: "KVCache") -> str:
        """Write another cache to the file, unless nobody may write to it; a line that says what it holds.

        Raises:
            InputError: the file cannot be written.
        """
        from ..cache.file import save_prompt_cache

        assert self._path is not None
        (length,) = cache.lengths
        if self._fixed:
            return f"Prompt cache: nobody may write to {self._path}"
        save_prompt_cache(self._path, cache, self._metadata)
        return f"Prompt cache: {self._path} holds {length} tokens now"

    def counting(self, progress: "Progress") -> "Progress":
        """The callback, which now also tells this object how much of the prompt is computed."""

        def call(done: int, total: int) -> None:
            self._computed = total + 1  # the last token is left to the first round
            progress(done, total)

        return call

    def reused(self, made: "Sequence[GenerationResponse]") -> dict[str, int]:
        """For a summary: how many of the prompt's tokens were in the file; nothing without a file."""
        return {"cached_tokens": made[-1].prompt_tokens - self._computed} if self._path is not None and made else {}

    def keep(self, made: "Sequence[GenerationResponse]") -> str | None:
        """Write the file, if there is something to write; a line that says what it has been good for.

        An answer that was interrupted before it began does not take the place of a longer text.

        Raises:
            InputError: the file cannot be written.
        """
        from ..cache.file import save_prompt_cache

        if self._path is None or self._cache is None:
            return None
        (length,) = self._cache.lengths
        if not self._fixed and length and (made or length >= self._length):
            save_prompt_cache(self._path, self._cache, self._metadata)
            self._length = length
        if not made:
            return f"Prompt cache: {self._path} holds {self._length} tokens now" if self._length else None
        spared = self.reused(made)["cached_tokens"]
        return f"Prompt cache: {spared} of the prompt's tokens were in {self._path}, which holds {self._length} now"


def _check(path: Path) -> None:
    """Raises:
    InputError: the file cannot be read, or its folder cannot be written to.
    """
    from ..cache.file import read_contents

    if path.exists():
        rows = len(read_contents(path).tokens)
        if rows > 1:
            raise InputError(f"the prompt cache {path} holds {rows} texts, and a command goes on with one")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise InputError(f"cannot write the prompt cache {path}: {folder} is no folder")
    if not _is_fixed(path) and not os.access(folder, os.W_OK):
        raise InputError(f"cannot write the prompt cache {path}: nothing may be written to {folder}")


def _check_quantization(path: Path, held: "KVQuantization | None", asked: "KVQuantization | None") -> None:
    """Raises:
    OptionError: the file would change the text.
    """
    if held != asked:
        dense = "is dense"
        raise OptionError(
            "the prompt cache {path} {held}, and {kv_bits} asks for {asked}"
            if asked is not None
            else "the prompt cache {path} {held}, and there is no {kv_bits}",
            path=path,
            held=dense if held is None else f"has {held}",
            asked=asked,
        )


def _is_fixed(path: Path) -> bool:
    """Whether nobody may write to a file that is there."""
    return path.exists() and not path.stat().st_mode & 0o222
