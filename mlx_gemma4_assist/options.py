"""How a text is generated: every option, its range and its words in one place.

``stream_generate`` takes these as keywords and the command line as flags; both check them here, before anything is
loaded. Imports neither MLX nor anything that does.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from operator import index
from typing import TYPE_CHECKING, Any, TypedDict

from .errors import OptionError, counted

if TYPE_CHECKING:
    import mlx.core as mx

LogitsProcessor = Callable[["mx.array", "mx.array"], "mx.array"]
"""mlx-lm's signature: (all token ids so far (T,) int32, logits (1, V)) -> logits (1, V)."""

MAX_DRAFTS = 32
"""The most drafts of a round."""
COLDEST = 1e-30
"""The lowest temperature that is not 0."""

KV_BITS = (4, 8)
KV_GROUP_SIZES = (32, 64, 128)
MAX_KV_START = 2**30
"""How keys and values can be quantized: bits, numbers that share a scale, the latest position to begin at."""

MAX_LOGPROBS = 20
"""Of how many of the likeliest tokens log-probabilities can be told, as with OpenAI's."""

FILTERS = ("temperature", "top_p", "top_k", "min_p")
"""What a distribution goes through before a token is drawn."""


def integer(value: Any) -> int:
    """An integer of Python's or NumPy's, also as a whole float.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return index(value)


def number(value: Any) -> float:
    """A number of any kind.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool | str | bytes):
        raise TypeError
    return float(value)


def _temperature(value: Any) -> float:
    """What float32 cannot divide by is as cold as 0."""
    read = number(value)
    return 0.0 if 0 < read < COLDEST else read


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else () if value is None else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return texts


def _typed_biases(text: str) -> dict[int, float]:
    """What a command line says: ID=VALUE, or a JSON object.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if text.lstrip().startswith("{"):
        try:
            return {int(token): number(bias) for token, bias in json.loads(text).items()}
        except RecursionError:
            raise ValueError from None
    token, _, bias = text.partition("=")
    return {int(token): float(bias)}


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    if texts and all(isinstance(text, str) for text in texts):
        value = {token: bias for text in texts for token, bias in _typed_biases(text).items()}
    biases = {integer(token): number(bias) for token, bias in dict(value or ()).items()}
    if any(token < 0 or not bias < inf for token, bias in biases.items()):
        raise ValueError
    return tuple(biases.items())


def _functions(value: Any) -> tuple[LogitsProcessor, ...]:
    functions = () if value is None else tuple(value)
    if not all(callable(function) for function in functions):
        raise TypeError
    return functions


def _schema(value: Any) -> str:
    """A JSON schema as text; the order of its keys, in which an object is written, stays."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        schema = json.loads(text)
    except RecursionError:
        raise ValueError from None
    if not isinstance(schema, dict):
        raise TypeError
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes.

    Attributes:
        least, most: the smallest and the largest.
        above: what a number must be larger than.
    """

    least: float = -inf
    most: float = inf
    above: float = -inf

    def __call__(self, value: float) -> bool:
        """Whether a number is in it; no infinite one is."""
        return self.least <= value <= self.most and self.above < value < inf

    @property
    def words(self) -> dict[str, float]:
        """The same in the words of a JSON schema."""
        told = {"minimum": self.least, "maximum": self.most, "exclusiveMinimum": self.above}
        return {word: limit for word, limit in told.items() if abs(limit) < inf}


def option(
    default: Any,
    read: Callable[[Any], Any],
    accepts: Callable[[Any], bool],
    expected: str,
    help: str,
    flags: Sequence[str] = (),
) -> Any:
    """A field: how a value is read (TypeError or ValueError: it is of another kind), which ones are in range, and what
    the command line says of it."""
    metadata = {"read": read, "accepts": accepts, "expected": expected, "help": help, "flags": tuple(flags)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How a text is generated.

    Attributes:
        max_tokens: the most tokens to generate.
        temperature: 0 is greedy.
        top_p, top_k, min_p: filters, in transformers' order: top-k, top-p, min-p after the temperature; 1 (or 0, as in
            mlx-lm), 0 and 0 keep all.
        repetition_penalty, presence_penalty, frequency_penalty: transformers' penalty of all ids so far, the prompt's
            included, and OpenAI's of generated ids; exact with drafts.
        logit_bias: what is added to which ids' logits: a mapping, texts as on the command line, or pairs, which
            is how it is held.
        top_logprobs: of how many of the likeliest tokens log-probabilities are told, besides each token's own; None
            tells none.
        draft_temperature: how the assistant's drafts are drawn when sampling; 0 takes its likeliest token. None is 0
            with a seed, 1 without one: drawn drafts are accepted more often, but they change the text that is drawn.
        seed: makes sampling repeatable; None draws a fresh one.
        num_assistant_tokens: drafts per round; 0 decodes plainly. None learns from the rounds how many are worth their
            time, none included; only with a seed and a ``draft_temperature`` it is 3, for the text to be repeatable.
        stop: strings that end the text; they are not part of it. A special token stops there, too.
        skip_special_tokens: whether answers, thoughts and calls of tools are told apart, and their markers left out of
            the text; otherwise all is one text, with all special tokens.
        logits_processors: mlx-lm's ``(tokens, logits) -> logits``, called once per token; rounds then do not overlap.
        json_schema, regex, lark: what the answer must be, one of the three at most: JSON of a schema (a mapping, or
            JSON text), what a regular expression matches as a whole, or what a grammar in llguidance's variant of Lark
            gives. It holds the answer, not thoughts before it. Needs the extra ``grammar``.
        compile: whether rounds run under ``mx.compile``; None does so on a GPU. On the CPU backend that takes a C++
            compiler, and half a minute the first time on a machine.
        prefill_step_size: tokens of the prompt computed at once, which bounds memory.
        kv_bits: of keys and values in layers with full attention, 4 or 8; None leaves them as they are, or as a
            ``prompt_cache`` has them.
        kv_group_size: how many of their numbers share a scale and a bias.
        quantized_kv_start: the first position whose keys and values are quantized.

    Raises:
        OptionError: a value of another kind or out of its range; how drafts are drawn where none are, or how keys are
            quantized that are not; two grammars.
    """

    max_tokens: int = option(
        256, integer, Range(1), "a positive integer", "The most tokens to generate.", ("--max-tokens", "-m")
    )
    temperature: float = option(
        0.0, _temperature, Range(0), "0 or more", "Sampling temperature; 0 is greedy.", ("--temp",)
    )
    top_p: float = option(
        1.0,
        number,
        Range(0, 1),
        "0 to 1",
        "Keep the likeliest tokens that together reach this; 1 keeps all.",
    )
    top_k: int = option(
        0,
        integer,
        Range(0),
        "0 or a positive integer",
        "Keep this many of the likeliest tokens; 0 keeps all.",
    )
    min_p: float = option(0.0, number, Range(0, 1), "0 to 1", "Keep tokens this fraction as likely as the likeliest.")
    repetition_penalty: float = option(
        1.0,
        number,
        Range(above=0),
        "above 0",
        "Divide the logits of ids in prompt and text by this, or multiply where negative; 1 changes nothing.",
    )
    presence_penalty: float = option(
        0.0, number, Range(), "a number", "Subtract this from the logits of ids in the text."
    )
    frequency_penalty: float = option(
        0.0, number, Range(), "a number", "Subtract this for each time that an id is in the text."
    )
    logit_bias: tuple[tuple[int, float], ...] = option(
        (),
        _biases,
        lambda x: True,
        "ids and what is added to their logits, such as 5=-100",
        "ID=VALUE or a JSON object: add VALUE to the logit of token ID; may be repeated.",
    )
    top_logprobs: int | None = option(
        None,
        integer,
        Range(0, MAX_LOGPROBS),
        f"0 to {MAX_LOGPROBS}",
        "Tell log-probabilities of the tokens and of so many of the likeliest.",
    )
    draft_temperature: float | None = option(
        None,
        _temperature,
        Range(0),
        "0 or more",
        "How drafts are drawn when sampling; 0 takes the likeliest. Default: 0 with a seed, else 1.",
    )
    seed: int | None = option(
        None, integer, Range(0, 2**64 - 1), "an integer from 0 to 2 ** 64 - 1", "Makes sampling repeatable."
    )
    num_assistant_tokens: int | None = option(
        None,
        integer,
        Range(0, MAX_DRAFTS),
        f"0 to {MAX_DRAFTS}",
        "Drafts per round; 0 decodes plainly. Learned unless told.",
    )
    stop: Sequence[str] = option(
        (),
        _texts,
        lambda x: "" not in x,
        "a string that is not empty, or several",
        "Text that ends the answer; may be repeated.",
    )
    skip_special_tokens: bool = option(
        True,
        _switch,
        lambda x: True,
        "True or False",
        "Tell answers from thoughts, and leave out special tokens.",
        ("--skip-special-tokens/--no-skip-special-tokens",),
    )
    logits_processors: Sequence[LogitsProcessor] = option(
        (), _functions, lambda x: True, "functions of (tokens, logits)", ""
    )
    json_schema: str | None = option(
        None,
        _schema,
        lambda x: True,
        "a JSON schema, as a mapping or as JSON text",
        "The answer is JSON of this schema.",
    )
    regex: str | None = option(
        None, _text, lambda x: x != "", "a regular expression", "The answer is what this expression matches as a whole."
    )
    lark: str | None = option(
        None, _text, lambda x: x.strip() != "", "a grammar", "The answer is what this Lark grammar gives."
    )
    compile: bool | None = option(
        None,
        _switch,
        lambda x: True,
        "True, False or None",
        "Run rounds under mx.compile; on a CPU that takes g++. Default: on a GPU.",
        ("--compile/--no-compile",),
    )
    prefill_step_size: int = option(
        2048, integer, Range(1), "a positive integer", "Tokens of the prompt computed at once."
    )
    kv_bits: int | None = option(
        None,
        integer,
        lambda x: x in KV_BITS,
        " or ".join(map(str, KV_BITS)),
        "Quantize keys and values of full-attention layers to 4 or 8 bits, for less memory in long contexts.",
    )
    kv_group_size: int = option(
        64,
        integer,
        lambda x: x in KV_GROUP_SIZES,
        "32, 64 or 128",
        "How many of their numbers share a scale.",
    )
    quantized_kv_start: int = option(
        5000, integer, Range(0, MAX_KV_START), "0 to 2 ** 30", "Quantize them from this position on."
    )

    def __post_init__(self) -> None:
        read_options(self)
        if self.temperature == 0 and self.draft_temperature:
            raise OptionError("{draft_temperature} needs a {temperature} above 0: greedy decoding drafts greedily")
        if self.num_assistant_tokens == 0 and self.draft_temperature:
            raise OptionError("{draft_temperature} is for drafts, but {num_assistant_tokens} is 0, which makes none")
        if len(grammars := self._grammars()) > 1:
            raise OptionError(f"{{{grammars[0][0]}}} and {{{grammars[1][0]}}} exclude each other")
        if self.kv_bits is None:
            self._check_dense()

    def _check_dense(self) -> None:
        """Refuse to say how keys and values are quantized where they are not."""
        for each in fields(self):
            if each.name in ("kv_group_size", "quantized_kv_start") and vars(self)[each.name] != each.default:
                raise OptionError(f"{{{each.name}}} is for quantized keys and values, and there is no {{kv_bits}}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def grammar(self) -> tuple[str, str] | None:
        """What holds the answer: the name of the option, and its value."""
        return next(iter(self._grammars()), None)

    def _grammars(self) -> list[tuple[str, str]]:
        given = {"json_schema": self.json_schema, "regex": self.regex, "lark": self.lark}
        return [(name, value) for name, value in given.items() if value is not None]


def read_options(options: Any) -> None:
    """Read the values of a frozen dataclass whose fields are made by ``option``; where None is the default, it stays.

    Raises:
        OptionError: a value of another kind or out of its range.
    """
    for each in fields(options):
        value = vars(options)[each.name]
        if value is not None or each.default is not None:
            object.__setattr__(options, each.name, _read(each.name, each.metadata, value))


def _read(name: str, metadata: Mapping[str, Any], value: Any) -> Any:
    """The value as the option has it.

    Raises:
        OptionError: it takes no such value.
    """
    try:
        read = metadata["read"](value)
        accepted = metadata["accepts"](read)
    except (TypeError, ValueError, OverflowError):
        accepted = False
    if not accepted:
        raise OptionError(f"{{{name}}} is {{value!r:.100}}, expected {metadata['expected']}", value=value)
    return read


class OptionValues(TypedDict, total=False):
    """The fields of ``GenerationOptions`` as keywords, for functions that take them as ``**options``."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | Iterable[tuple[int, float]] | Sequence[str] | str | None
    top_logprobs: int | None
    draft_temperature: float | None
    seed: int | None
    num_assistant_tokens: int | None
    stop: str | Iterable[str] | None
    skip_special_tokens: bool
    logits_processors: Iterable[LogitsProcessor] | None
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    lark: str | None
    compile: bool | None
    prefill_step_size: int
    kv_bits: int | None
    kv_group_size: int
    quantized_kv_start: int


_OF_SEVERAL = ("stop", "logits_processors")  # options whose value for one text may be a list


def options_for_each(options: Mapping[str, Any], count: int) -> list[GenerationOptions]:
    """The options of several texts: a list has a value for each, anything else is for all.

    ``stop`` and ``logits_processors`` are for each where they are lists of lists.

    Raises:
        OptionError: a list of another length, or a value that the option does not take.
    """
    spread = {}
    for name, value in options.items():
        one_each = isinstance(value, list)
        if name in _OF_SEVERAL:
            one_each = one_each and bool(value) and all(isinstance(item, list | tuple) for item in value)
        if one_each and len(value) != count:
            raise OptionError(f"{{{name}}} has {counted(len(value), 'value')} for {counted(count, 'prompt')}")
        spread[name] = value if one_each else [value] * count
    return [GenerationOptions(**{name: values[i] for name, values in spread.items()}) for i in range(count)]


def flags(name: str) -> tuple[str, ...]:
    """How an option is spelled on the command line: what it declares, else its name with dashes."""
    declared = {each.name: each.metadata["flags"] for each in fields(GenerationOptions)}
    return declared.get(name) or (f"--{name.replace('_', '-')}",)
