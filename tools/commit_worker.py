"""A commit, as a process that generates what it is asked for. ``compare_commits.py`` starts one for each of two.

Of the package it uses the public interface only, which both commits have, and of an assistant what rounds call.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from peers import AUTO, Clock
from workers import Answer, serve

EMBEDDED, LARGE = "embedded", "large"
PROMPT = "It was a fine morning, and"


class Settings(NamedTuple):
    """What a worker is started with.

    Attributes:
        large: the folder of the large pair's target.
        acceptance: the chance of the large pair's drafts to be right; None for the assistant's own.
    """

    large: str
    acceptance: float | None


class Request(NamedTuple):
    """One text to generate: by which pair, with how many drafts a round (0, a number or ``auto``), and how long."""

    pair: str
    drafts: int | str
    compiled: bool
    tokens: int


class Commit:
    """The package that this process finds first."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._pairs: dict[str, tuple[Any, Any, Any]] = {}
        self._oracle: Any = None

    def generate(self, request: Request) -> dict[str, Any]:
        """A text's tokens, its speed, and MLX's peak of memory."""
        import mlx.core as mx

        target, processor, assistant = self._pair(request.pair)
        if request.drafts == 0:
            assistant = None
        elif request.pair == LARGE and self._settings.acceptance is not None:
            assistant = self._oracle = self._oracle or self._make_oracle(request.tokens)
        gc.collect()
        mx.synchronize()
        mx.reset_peak_memory()
        return self._run(target, processor, assistant, request)

    def _pair(self, name: str) -> tuple[Any, Any, Any]:
        from mlx_gemma4_assist import assistant_for, load, load_assistant

        if name not in self._pairs:
            large = self._settings.large
            folders = ("tiny", assistant_for("tiny")) if name == EMBEDDED else (large, f"{large}-assistant")
            self._pairs[name] = (*load(folders[0]), load_assistant(folders[1]))
        return self._pairs[name]

    def _make_oracle(self, tokens: int) -> Any:
        from oracle import OracleAssistant, answers

        target, processor, assistant = self._pair(LARGE)
        plain = self._run(target, processor, None, Request(LARGE, 0, False, tokens))["tokens"]
        script = processor.encode(PROMPT, chat=False) + plain
        return OracleAssistant(assistant, answers(script, target.config.vocab_size, self._settings.acceptance))

    def _run(self, target: Any, processor: Any, assistant: Any, request: Request) -> dict[str, Any]:
        import mlx.core as mx

        from mlx_gemma4_assist import stream_generate

        prompt = processor.encode(PROMPT, chat=False)
        clock = Clock()
        for response in stream_generate(
            target,
            processor,
            prompt,
            assistant,
            max_tokens=request.tokens,
            num_assistant_tokens=None if request.drafts in (0, AUTO) else request.drafts,
            compile=request.compiled,
        ):
            clock.add([response.token])
        mx.synchronize()
        return clock.result(response.stats.rounds - 1, mx.get_peak_memory())


def work(settings: Settings) -> None:
    """Answer requests until there are no more."""

    def start() -> tuple[dict[str, Any], Answer]:
        import mlx_gemma4_assist

        commit = Commit(settings)
        source = str(Path(mlx_gemma4_assist.__file__).parent.parent.resolve())
        return {"source": source}, lambda request: commit.generate(Request(**request))

    serve(start)


if __name__ == "__main__":
    work(Settings(*json.loads(sys.argv[1])))
