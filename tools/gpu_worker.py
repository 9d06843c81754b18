"""A random pair in one format on the device, as a process that measures what it is asked for; see ``measure_gpu.py``.

mlx-lm's network has the very arrays of this package's: the weights are in memory once.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import peers
import synthetic
from measure_look_ahead import decode
from mlx.utils import tree_flatten
from oracle import OracleAssistant, answers
from peers import OURS, Clock
from workers import Answer, serve

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.models.config import Gemma4TextConfig, read_assistant_config, read_target_config
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM

FLOAT32, BFLOAT16 = "float32", "bfloat16"
QUANTIZED = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4)}
"""Formats of 4 bits: group size, bits."""
CHAOS = 4.0  # of what layers add, against a token's own embedding: then every key matters to the text
SHORT_PROMPT = 64
BEYOND_WINDOW = 100
EXACT_TOKENS = 64
LUCK = 1063  # a seed with which 0.8 of the drafts are right in short texts too
BOS = 2


class Settings(NamedTuple):
    """What a worker is started with.

    Attributes:
        form: ``bfloat16``, a key of ``QUANTIZED``, or ``float32``: the one that texts are compared in.
        scale, layers: of E2B's shape.
        acceptance: the chance of a draft to be right.
    """

    form: str
    scale: float
    layers: int | None
    acceptance: float


class Request(NamedTuple):
    """What to measure.

    Attributes:
        what: ``text``: the speed of a text; ``ahead``: the same by rounds alone, with ``ahead`` of them in flight;
            ``exact``: is a text with drafts the one without?
        engine: ``ours`` or ``mlx-lm``.
        drafts: per round; 0 is plain, ``auto`` learned.
        compiled: whether rounds are.
        tokens: of the text.
        prompt: tokens before it.
        ahead: rounds submitted beyond the one that is read.
    """

    what: str
    engine: str = OURS
    drafts: int | str = 0
    compiled: bool = False
    tokens: int = 32
    prompt: int = SHORT_PROMPT
    ahead: int = 1


def backend() -> str:
    """CPU, CUDA or Metal."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "CPU"
    return "CUDA" if mx.cuda.is_available() else "Metal"


def prompt_of(length: int) -> list[int]:
    """Token ids that a walk begins after: BOS, bytes, a line break."""
    return [BOS, *(7 + 17 * i % 250 for i in range(length - 2)), synthetic.NEWLINE]


class Networks:
    """Target, assistant and mlx-lm's twin of the target.

    Raises:
        InputError: the weights do not fit what Metal recommends to use.
    """

    def __init__(self, settings: Settings):
        target_file, assistant_file = synthetic.configs("e2b", settings.scale, settings.layers)
        self._text_config = target_file["text_config"]
        self.config = read_target_config(target_file)
        check_memory(self.config, settings.form)
        dtype = mx.float32 if settings.form == FLOAT32 else mx.bfloat16
        mx.random.seed(0)
        self.target = chaotic(self.config) if settings.form == FLOAT32 else synthetic.random_target(self.config, dtype)
        self.assistant = synthetic.random_assistant(read_assistant_config(assistant_file), dtype)
        self._form = settings.form
        for network in (self.target, self.assistant):
            quantize(network, self._form)
            mx.eval(network.parameters())
            network.eval()
        self._twin: Any = None

    @property
    def nbytes(self) -> int:
        both = [*tree_flatten(self.target.parameters()), *tree_flatten(self.assistant.parameters())]
        return sum(array.nbytes for _, array in both)

    @property
    def twin(self) -> Any:
        """mlx-lm's network, made when first asked for."""
        if self._twin is None:
            from mlx_lm.models.gemma4_text import Model, ModelArgs

            twin = Model(ModelArgs.from_dict(self._text_config))
            quantize(twin, self._form)
            twin.load_weights(tree_flatten(self.target.parameters()))
            self._twin = twin
        return self._twin


def check_memory(config: Gemma4TextConfig, form: str) -> None:
    parameters = tree_flatten(Gemma4ForCausalLM(config).parameters())  # shapes; nothing is evaluated
    needed = (4 if form == FLOAT32 else 2) * sum(array.size for _, array in parameters)
    most = mx.device_info().get("max_recommended_working_set_size")
    if most is not None and needed > int(most):
        raise InputError(f"{needed / 1e9:.1f} GB of weights, of which Metal recommends at most {int(most) / 1e9:.1f}")


def chaotic(config: Gemma4TextConfig) -> Gemma4ForCausalLM:
    """A float32 target whose text depends on all that it remembers."""
    target = Gemma4ForCausalLM(config)
    target.load_weights(list(synthetic.random_weights(target, mx.float32, added=CHAOS).items()))
    return target


def quantize(network: nn.Module, form: str) -> None:
    """Linear layers and embeddings, where the format has groups."""
    if form in QUANTIZED:
        group_size, bits = QUANTIZED[form]
        nn.quantize(network, group_size, bits, mode=form, class_predicate=is_layer)


def is_layer(path: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding) and module.weight.shape[-1] % 64 == 0


class Measure:
    """Answers requests about a pair."""

    def __init__(self, settings: Settings):
        began = time.perf_counter()
        self._settings = settings
        self._networks = Networks(settings)
        self._build_seconds = time.perf_counter() - began
        self._plain: dict[int, list[int]] = {}
        self._oracles: dict[tuple[int, int], OracleAssistant] = {}

    def facts(self) -> dict[str, Any]:
        device = mx.device_info()
        return {
            "backend": backend(),
            "device": str(device.get("device_name", device.get("architecture", "unknown"))),
            "versions": {package: metadata.version(package) for package in ("mlx", "mlx-lm")},
            "megabytes": round(self._networks.nbytes / 1e6),
            "build_seconds": round(self._build_seconds, 1),
        }

    def answer(self, request: Request) -> dict[str, Any]:
        """Seconds to the first token, tokens per second, tokens per round, peak memory; or whether texts are equal."""
        gc.collect()
        kinds: dict[str, Callable[[Request], dict[str, Any]]] = {
            "text": self._text,
            "ahead": self._ahead,
            "exact": self._exact,
        }
        return kinds[request.what](request)

    def _text(self, request: Request) -> dict[str, Any]:
        assistant = self._oracle(request)
        mx.synchronize()
        mx.reset_peak_memory()
        clock, rounds = self._ours(request, assistant) if request.engine == OURS else self._mlx_lm(request)
        mx.synchronize()
        result = clock.result(rounds, mx.get_peak_memory())
        tokens = result.pop("tokens")
        return result | {"same_text": tokens == self._plain_text(request)[: len(tokens)]}

    def _ours(self, request: Request, assistant: Any) -> tuple[Clock, int]:
        return peers.decode(
            self._networks.target,
            assistant,
            prompt_of(request.prompt),
            request.tokens,
            request.drafts,
            request.compiled,
        )

    def _mlx_lm(self, request: Request) -> tuple[Clock, int]:
        from mlx_lm.generate import generate_step, generation_stream, wired_limit

        model = self._networks.twin
        with wired_limit(model, [generation_stream]):
            clock = Clock()
            prompt = mx.array(prompt_of(request.prompt))
            for token, _ in generate_step(prompt, model, max_tokens=request.tokens):
                clock.add([token])
        return clock, len(clock.tokens) - 1

    def _plain_text(self, request: Request) -> list[int]:
        """What the target writes by itself, eagerly: at least as long as the request."""
        known = self._plain.get(request.prompt, [])
        if len(known) < request.tokens:
            plain = Request("text", tokens=request.tokens, prompt=request.prompt)
            known = self._plain[request.prompt] = self._ours(plain, None)[0].tokens
        return known

    def _oracle(self, request: Request) -> OracleAssistant | None:
        """A drafter that is right as often as the settings say; one for each length, since compiled rounds keep it."""
        if request.drafts == 0:
            return None
        key = request.prompt, request.tokens
        if key not in self._oracles:
            script = [*prompt_of(request.prompt), *self._plain_text(request)]
            drafts = answers(script, self._networks.config.vocab_size, self._settings.acceptance, LUCK)
            self._oracles[key] = OracleAssistant(self._networks.assistant, drafts)
        return self._oracles[key]

    def _ahead(self, request: Request) -> dict[str, Any]:
        decoded = decode(
            self._networks.target,
            self._oracle(request),
            prompt_of(request.prompt),
            request.drafts,
            request.tokens,
            compiled=request.compiled,
            ahead=request.ahead,
        )
        same = decoded.tokens[: request.tokens] == self._plain_text(request)[: request.tokens]
        return {"tokens_per_second": decoded.speed, "same_text": same}

    def _exact(self, request: Request) -> dict[str, Any]:
        """Two texts, one after a prompt longer than the sliding window: is the one with drafts the plain one?"""
        found = []
        for length in (SHORT_PROMPT, self._networks.config.sliding_window + BEYOND_WINDOW):
            this = request._replace(prompt=length, tokens=EXACT_TOKENS)
            tokens = self._ours(this, self._oracle(this))[0].tokens
            plain = self._plain_text(this)
            same = next((i for i, (a, b) in enumerate(zip(tokens, plain, strict=False)) if a != b), len(tokens))
            found.append({"prompt": length, "tokens": len(tokens), "same": same, "distinct": len(set(tokens))})
        return {"texts": found, "equal": all(text["same"] == EXACT_TOKENS for text in found)}


def work(settings: Settings) -> None:
    """Answer requests until there are no more."""

    def start() -> tuple[dict[str, Any], Answer]:
        measure = Measure(settings)
        return measure.facts(), lambda request: measure.answer(Request(**request))

    serve(start)


if __name__ == "__main__":
    work(Settings(*json.loads(sys.argv[1])))
