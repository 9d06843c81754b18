"""Plain and assisted decoding measured side by side on this machine: what drafts are worth, and what they cost.

Settings take turns on the same prompt (A B C A B C), so that a machine that grows warm or busy slows all of them, and
ratios are taken within a turn. The first turn of each prompt warms up and is not counted. Nothing is printed here.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .. import __version__
from ..api import stream
from ..backend import dtype_name, on_gpu
from ..engine.learning import Memory
from ..engine.pair import Pair
from ..engine.responses import GenerationResponse
from ..errors import InputError, OptionError
from ..files import parse_json, read_text
from ..models.gemma4_text import Gemma4ForCausalLM
from ..options import MAX_DRAFTS, GenerationOptions
from ..rounds.compiled import compiles
from ..text.messages import check_messages
from ..text.processor import Prompt, is_conversation

PLAIN, AUTO = 0, "auto"
Setting = int | str
"""Drafts per round, 0 for plain decoding; or ``AUTO``."""


@dataclass(frozen=True)
class Run:
    """One text, generated once.

    Attributes:
        prompt: its name.
        setting: drafts per round.
        turn: runs of the same prompt and turn are compared with each other.
        tokens: what came out.
        first: seconds to the first token.
        rest: seconds from the first token to the last.
        rounds: forwards of the target after the first token.
        drafted_at, accepted_at: for each place in a round, how many drafts there were and how many stood.
        peak_memory: MLX's, in GB.
    """

    prompt: str
    setting: Setting
    turn: int
    tokens: tuple[int, ...]
    first: float
    rest: float
    rounds: int
    drafted_at: tuple[int, ...]
    accepted_at: tuple[int, ...]
    peak_memory: float

    @property
    def tokens_per_second(self) -> float:
        return (len(self.tokens) - 1) / self.rest

    @property
    def round_seconds(self) -> float:
        return self.rest / self.rounds


class Spread(NamedTuple):
    """The median and the quartiles of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = list(values)
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Summary:
    """What the runs of one setting have in common.

    Attributes:
        setting: drafts per round.
        tokens_per_second: from the first token on.
        speedup: over the plain run of the same prompt and turn.
        tokens_per_round: tokens that a forward of the target gave.
        accepted_at: for each place in a round, the share of drafts there that stood.
        round_cost: time of a round in plain steps; None where the number of drafts varies.
        acceptance: the chance of each draft, given that those before it stood, that alone gives ``tokens_per_round``;
            None where the number of drafts varies.
        break_even: the same chance at which a round of this cost is as fast as plain decoding; None where the number of
            drafts varies, above 1 (infinite) where no acceptance would do.
        first: seconds to the first token.
        peak_memory: the highest, in GB.
    """

    setting: Setting
    tokens_per_second: Spread
    speedup: Spread
    tokens_per_round: float
    accepted_at: tuple[float, ...]
    round_cost: Spread | None
    acceptance: float | None
    break_even: float | None
    first: Spread
    peak_memory: float


class Difference(NamedTuple):
    """A run whose text is not that of plain decoding, from token ``at`` on."""

    prompt: str
    setting: Setting
    at: int


def parse_settings(text: str) -> tuple[Setting, ...]:
    """``"1,3,auto"`` -> (PLAIN, 1, 3, AUTO).

    Raises:
        InputError: something that is no draft length, or nothing at all.
    """
    settings: list[Setting] = []
    for part in (part.strip() for part in text.split(",")):
        if part != AUTO and not (part.isdecimal() and 0 < int(part) <= MAX_DRAFTS):
            expected = f"numbers from 1 to {MAX_DRAFTS} and {AUTO}, with commas between"
            raise OptionError(f"{{draft_lengths}} is {{value!r}}, expected {expected}", value=text)
        settings.append(AUTO if part == AUTO else int(part))
    return tuple(dict.fromkeys([PLAIN, *settings]))


def bundled_prompts() -> dict[str, Prompt]:
    """The prompts that come with the package, by name: code, prose, list, json, chat."""
    folder = Path(str(resources.files("mlx_gemma4_assist") / "assets" / "prompts"))
    return {name: read_prompt(next(folder.glob(f"{name}.*"))) for name in ("code", "prose", "list", "json", "chat")}


def read_prompt(path: Path) -> Prompt:
    """A prompt from a file: text for one message of a user, ``.json`` for a list of messages.

    Raises:
        InputError: the file cannot be read, or is damaged.
    """
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path} is empty")
    if path.suffix != ".json":
        return text.strip()
    messages = parse_json(text, str(path))
    if not is_conversation(messages):
        raise InputError(f"{path} holds no list of messages, each with role and content")
    check_messages(messages)
    return messages


def measure(
    pair: Pair,
    prompts: Mapping[str, Sequence[int]],
    settings: Sequence[Setting],
    options: GenerationOptions,
    *,
    turns: int = 3,
    progress: Callable[[str, Setting], None] = lambda prompt, setting: None,
    memory: Memory | None = None,
) -> list[Run]:
    """Run every setting on every prompt, in turns.

    Args:
        pair: target, processor and assistant.
        prompts: token ids by name.
        settings: plain decoding among them, which the others are compared with.
        options: of each run; the settings are its drafts per round.
        turns: how often each prompt is run in each setting, after once for warming up.
        progress: called before each run.
        memory: where draft lengths that are learned are kept; None forgets them with the target.

    Raises:
        InputError: an option that ``stream_generate`` refuses; a prompt that is answered with one token, or none.
    """
    runs = []
    for name, tokens in prompts.items():
        for turn in range(turns + 1):
            for setting in settings:
                progress(name, setting)
                seconds, made = _generate(pair, tokens, setting, options, memory)
                if len(made) < 2:
                    ends = f"the answer to the prompt {name} ends after its first token"
                    raise InputError(f"{ends}: there is nothing to measure")
                if turn > 0:
                    runs.append(_run_of(name, setting, turn, seconds, made))
    return runs


def _generate(
    pair: Pair, prompt: Sequence[int], setting: Setting, options: GenerationOptions, memory: Memory | None
) -> tuple[list[float], list[GenerationResponse]]:
    """All responses, and when each came: seconds from the beginning."""
    if setting == PLAIN:
        pair, options = (
            replace(pair, assistant=None),
            replace(options, num_assistant_tokens=None, draft_temperature=None),
        )
    else:
        options = replace(options, num_assistant_tokens=setting if isinstance(setting, int) else None)
    mx.reset_peak_memory()
    begin = time.perf_counter()
    seconds, made = [], []
    for response in stream(pair, prompt, options, draft_memory=memory):
        seconds.append(time.perf_counter() - begin)
        made.append(response)
    mx.synchronize()  # a round that nobody reads must not run into the next measurement
    return seconds, made


def _run_of(
    name: str, setting: Setting, turn: int, seconds: Sequence[float], made: Sequence[GenerationResponse]
) -> Run:
    stats = made[-1].stats
    return Run(
        prompt=name,
        setting=setting,
        turn=turn,
        tokens=tuple(response.token for response in made),
        first=seconds[0],
        rest=seconds[-1] - seconds[0],
        rounds=stats.rounds - 1,
        drafted_at=tuple(stats.drafted_at),
        accepted_at=tuple(stats.accepted_at),
        peak_memory=made[-1].peak_memory,
    )


def summarise(runs: Sequence[Run], prompt: str | None = None) -> list[Summary]:
    """One summary for each setting, of all prompts or of one."""
    runs = [run for run in runs if prompt in (None, run.prompt)]
    plain = {(run.prompt, run.turn): run for run in runs if run.setting == PLAIN}
    settings = dict.fromkeys(run.setting for run in runs)
    return [_summary([run for run in runs if run.setting == setting], plain) for setting in settings]


def _summary(runs: Sequence[Run], plain: Mapping[tuple[str, int], Run]) -> Summary:
    setting = runs[0].setting
    with_plain = [(run, plain[run.prompt, run.turn]) for run in runs]
    tokens_per_round = sum(len(run.tokens) - 1 for run in runs) / sum(run.rounds for run in runs)
    cost = acceptance = break_even = None
    if isinstance(setting, int):
        cost = Spread.of(run.round_seconds / other.round_seconds for run, other in with_plain)
        acceptance, break_even = chance_for(tokens_per_round, setting), chance_for(cost.median, setting)
    return Summary(
        setting=setting,
        tokens_per_second=Spread.of(run.tokens_per_second for run in runs),
        speedup=Spread.of(run.tokens_per_second / other.tokens_per_second for run, other in with_plain),
        tokens_per_round=tokens_per_round,
        accepted_at=acceptance_by_place(runs),
        round_cost=cost,
        acceptance=acceptance,
        break_even=break_even,
        first=Spread.of(run.first for run in runs),
        peak_memory=max(run.peak_memory for run in runs),
    )


def acceptance_by_place(runs: Sequence[Run]) -> tuple[float, ...]:
    """For each place in a round, the share of drafts there that stood."""
    places = max(len(run.drafted_at) for run in runs)
    shares = []
    for place in range(places):
        counted = [run for run in runs if place < len(run.drafted_at)]
        drafted = sum(run.drafted_at[place] for run in counted)
        shares.append(sum(run.accepted_at[place] for run in counted) / drafted)
    return tuple(shares)


def chance_for(tokens_per_round: float, drafts: int) -> float:
    """The chance a of each draft at which ``1 + a + ... + a ** drafts`` is ``tokens_per_round``.

    Given what a round costs in plain steps instead, it is the chance at which drafting breaks even. 0 for a round that
    costs no more than a step, infinity for one that no acceptance pays for.
    """
    if tokens_per_round <= 1:
        return 0.0
    if tokens_per_round > drafts + 1:
        return float("inf")
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        enough = sum(middle**place for place in range(drafts + 1)) >= tokens_per_round
        low, high = (low, middle) if enough else (middle, high)
    return high


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Where a text is not that of the first plain run of its prompt."""
    expected: dict[str, tuple[int, ...]] = {}
    for run in runs:
        if run.setting == PLAIN:
            expected.setdefault(run.prompt, run.tokens)
    found = []
    for run in runs:
        if run.tokens != expected[run.prompt]:
            pairs = list(zip(run.tokens, expected[run.prompt], strict=False))
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
            found.append(Difference(run.prompt, run.setting, same))
    return list(dict.fromkeys(found))


def environment(target: Gemma4ForCausalLM, options: GenerationOptions) -> dict[str, Any]:
    """Machine, backend, versions and the type that is computed in: what a figure means nothing without."""
    return {
        "machine": _machine(),
        "system": f"{platform.system()} {platform.release()}",
        "backend": ("Metal" if mx.metal.is_available() else "CUDA") if on_gpu() else "CPU",
        "dtype": dtype_name(target.embed(mx.array([[0]])).dtype),
        "quantization": _quantization(target) or "none",
        "compiled": compiles(options.compile),
        "versions": {
            "python": platform.python_version(),
            "mlx": metadata.version("mlx"),
            "mlx_gemma4_assist": __version__,
        },
    }


def weight_format(target: Gemma4ForCausalLM) -> str:
    """What a target's weights are and what they are computed in, such as "bfloat16, affine 4 bits, groups of 64"."""
    dtype = dtype_name(target.embed(mx.array([[0]])).dtype)
    return ", ".join(part for part in (dtype, _quantization(target)) if part)


def _quantization(target: Gemma4ForCausalLM) -> str:
    """Of the embedding; empty without one."""
    embedding = target.model.embed_tokens
    if not isinstance(embedding, nn.QuantizedEmbedding):
        return ""
    return f"{embedding.mode} {embedding.bits} bits, groups of {embedding.group_size}"


def _machine() -> str:
    """The chip's name, as far as the system tells."""
    if sys.platform == "darwin":
        found = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return found.stdout.strip() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()
