"""One of the programs to compare, as a process that generates what it is asked for: token ids in, token ids out.

    python tools/peers.py ours '{"folder": "work/pair", "dtype": "float32", "acceptance": null, "seed": 0}'

reads requests from standard input and writes answers to standard output, a line of JSON each. ``compare_peers.py``
starts these processes, in different environments if need be; so the top of this file, and of ``workers.py``, needs the
standard library only.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from workers import Answer, serve

OURS, MLX_LM, MLX_VLM, TRANSFORMERS = "ours", "mlx-lm", "mlx-vlm", "transformers"
AUTO = "auto"


@dataclass(frozen=True)
class Request:
    """One text to generate."""

    prompt: str
    tokens: list[int]
    max_tokens: int
    drafts: int | str
    compiled: bool


@dataclass(frozen=True)
class Settings:
    """What a worker is started with."""

    folder: str
    dtype: str
    acceptance: float | None
    seed: int

    @property
    def assistant(self) -> Path:
        return Path(f"{self.folder}-assistant")


class Clock:
    """When tokens came."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._begin = time.perf_counter()
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def add(self, tokens: Sequence[int]) -> None:
        """Tokens have arrived together."""
        self._last = time.perf_counter()
        self.tokens += tokens
        self._first = self._first or (self._last, len(self.tokens))

    def result(self, rounds: int | None, peak_memory: float) -> dict[str, Any]:
        """Seconds to the first token, tokens per second after those that came with it; peak memory in bytes."""
        first, count = self._first
        rest = self._last - first
        return {
            "tokens": self.tokens,
            "first": first - self._begin,
            "tokens_per_second": (len(self.tokens) - count) / rest if rest else 0.0,
            "tokens_per_round": (len(self.tokens) - 1) / rounds if rounds else None,
            "peak_memory": peak_memory,
        }


def decode(
    target: Any, assistant: Any, prompt: list[int], max_tokens: int, drafts: int | str, compiled: bool
) -> tuple[Clock, int]:
    """A text by this package, greedily and without stops, and the forwards of the target after its first token."""
    import mlx.core as mx

    from mlx_gemma4_assist import GenerationOptions, MediaPrompt, Pair
    from mlx_gemma4_assist.engine.engine import Engine
    from mlx_gemma4_assist.engine.request import Request

    pair = Pair(target, None if drafts == 0 else assistant)
    number = None if drafts in (0, AUTO) else drafts
    options = GenerationOptions(max_tokens=max_tokens, num_assistant_tokens=number, compile=compiled)
    clock, rounds = Clock(), 0
    for event in Engine(pair).run(Request(MediaPrompt(prompt), options)):
        clock.add(event.tokens)
        rounds += 1
    mx.synchronize()
    return clock, rounds - 1


class Ours:
    packages = ("mlx", "mlx-gemma4-assist")

    def __init__(self, settings: Settings):
        from mlx_gemma4_assist.checkpoints.loading import load_assistant, load_model

        self._settings = settings
        self._target = load_model(settings.folder, dtype=settings.dtype)
        self._real = load_assistant(settings.assistant, dtype=settings.dtype)
        self._oracles: dict[str, Any] = {}

    def run(self, request: Request) -> dict[str, Any]:
        import mlx.core as mx

        assistant = None if request.drafts == 0 else self._assistant(request)
        mx.reset_peak_memory()
        clock, rounds = decode(
            self._target, assistant, request.tokens, request.max_tokens, request.drafts, request.compiled
        )
        if request.drafts == 0:
            self._script(request, clock.tokens)
        return clock.result(rounds, mx.get_peak_memory())

    def _script(self, request: Request, tokens: list[int]) -> None:
        if self._settings.acceptance is not None and request.prompt not in self._oracles:
            from oracle import OracleAssistant

            drafts = script(self._settings, request, tokens, self._target.config.vocab_size)
            self._oracles[request.prompt] = OracleAssistant(self._real, drafts)

    def _assistant(self, request: Request) -> Any:
        return self._real if self._settings.acceptance is None else self._oracles[request.prompt]


def script(settings: Settings, request: Request, tokens: list[int], vocabulary: int) -> Any:
    """What an oracle drafts after a prompt that was answered with ``tokens``."""
    from oracle import answers

    return answers([*request.tokens, *tokens], vocabulary, settings.acceptance, settings.seed)


class MlxLm:
    packages = ("mlx", "mlx-lm")

    def __init__(self, settings: Settings):
        import mlx.core as mx
        from mlx_lm.utils import load_model

        self._model, _ = load_model(Path(settings.folder))
        self._model.set_dtype({"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}[settings.dtype])
        mx.eval(self._model.parameters())

    def run(self, request: Request) -> dict[str, Any]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step, generation_stream, wired_limit

        mx.reset_peak_memory()
        with wired_limit(self._model, [generation_stream]):
            clock = Clock()
            for token, _ in generate_step(mx.array(request.tokens), self._model, max_tokens=request.max_tokens):
                clock.add([token])
        mx.synchronize()
        return clock.result(len(clock.tokens) - 1, mx.get_peak_memory())


class MlxVlm:
    packages = ("mlx", "mlx-vlm")

    def __init__(self, settings: Settings):
        import mlx.core as mx
        from mlx_vlm.speculative.drafters import load_drafter
        from mlx_vlm.utils import load_model

        self._settings = settings
        self._model = load_model(Path(settings.folder))
        self._drafter, _ = load_drafter(str(settings.assistant), kind="mtp")
        for model in (self._model, self._drafter):
            model.set_dtype({"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}[settings.dtype])
            mx.eval(model.parameters())
        self._scripts: dict[str, Any] = {}

    def run(self, request: Request) -> dict[str, Any]:
        import mlx.core as mx
        from mlx_vlm.generate.ar import generate_step
        from mlx_vlm.generate.common import generation_stream, wired_limit

        options: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": 0.0}
        if request.drafts:
            if self._settings.acceptance is not None:
                from oracle import draft_as_told

                draft_as_told(self._drafter, self._scripts[request.prompt])
            options |= {"draft_model": self._drafter, "draft_kind": "mtp", "draft_block_size": request.drafts + 1}
        mx.reset_peak_memory()
        with wired_limit(self._model, [generation_stream]):
            clock = Clock()
            for token, _ in generate_step(mx.array([request.tokens]), self._model, None, None, **options):
                clock.add([token])
        mx.synchronize()
        if not request.drafts and self._settings.acceptance is not None and request.prompt not in self._scripts:
            vocabulary = self._model.config.text_config.vocab_size
            self._scripts[request.prompt] = script(self._settings, request, clock.tokens, vocabulary)
        rounds = len(self._drafter.accept_lens) if request.drafts else len(clock.tokens) - 1
        return clock.result(rounds, mx.get_peak_memory())


class Transformers:
    packages = ("torch", "transformers")

    def __init__(self, settings: Settings):
        import torch
        from transformers import AutoModelForCausalLM, Gemma4ForCausalLM

        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[settings.dtype]
        names = {r"^model\.language_model\.": "model."}
        self._model = Gemma4ForCausalLM.from_pretrained(settings.folder, dtype=dtype, key_mapping=names)
        self._model.generation_config.eos_token_id = None
        self._assistant = AutoModelForCausalLM.from_pretrained(settings.assistant, dtype=dtype)
        self._assistant.generation_config.num_assistant_tokens_schedule = "constant"
        self._assistant.generation_config.assistant_confidence_threshold = 0.0

    def run(self, request: Request) -> dict[str, Any]:
        import torch
        from transformers.generation.streamers import BaseStreamer

        class Timer(BaseStreamer):
            """Gets the prompt first, then tokens as they are made."""

            def __init__(self) -> None:
                self.clock: Clock | None = None

            def put(self, value: Any) -> None:
                if self.clock is None:
                    self.clock = Clock()
                else:
                    self.clock.add(value.flatten().tolist())

            def end(self) -> None:
                pass

        ids, timer = torch.tensor([request.tokens]), Timer()
        options: dict[str, Any] = {"max_new_tokens": request.max_tokens, "do_sample": False, "streamer": timer}
        if request.drafts:
            self._assistant.generation_config.num_assistant_tokens = request.drafts
            options["assistant_model"] = self._assistant
        self._model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return timer.clock.result(None, 0.0)


ENGINES: dict[str, Callable[[Settings], Any]] = {
    OURS: Ours,
    MLX_LM: MlxLm,
    MLX_VLM: MlxVlm,
    TRANSFORMERS: Transformers,
}


def work(name: str, settings: Settings) -> None:
    """Answer requests until there are no more."""

    def start() -> tuple[dict[str, Any], Answer]:
        engine = ENGINES[name](settings)
        return {"versions": versions(engine)}, lambda request: engine.run(Request(**request))

    serve(start)


def versions(engine: Any) -> dict[str, str]:
    """Of the packages that a program consists of."""
    return {package: _version(package) for package in engine.packages}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from its source folder
        return "source"


if __name__ == "__main__":
    work(sys.argv[1], Settings(**json.loads(sys.argv[2])))
