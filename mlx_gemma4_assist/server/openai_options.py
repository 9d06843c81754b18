"""How an answer is made, as OpenAI's requests say it, and servers that extend them: fields to options."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import OptionError
from ..options import GenerationOptions, Range
from .endpoint import Body
from .exchange import Model, bad_request
from .fields import (
    ANYTHING,
    FLAG,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    Schema,
    described_by,
    either,
    listed,
    one_of,
    optional,
    record,
)

MOST_STOPS = 16
MOST_ANSWERS = 128
FORMAT = "response_format"
UNSAID = -1
"""What leaves a number to the server."""

NUMBERS = {each.name: each.metadata["help"] for each in fields(GenerationOptions) if isinstance(each.default, float)}
"""Options that are numbers, which requests spell alike, and what they do."""
RANGES: Mapping[str, Schema] = {
    each.name: each.metadata["accepts"].words
    for each in fields(GenerationOptions)
    if isinstance(each.metadata["accepts"], Range)
}
"""Which numbers options take, in the words of a schema."""
SAME = {
    **{name: name for name in NUMBERS},
    "repeat_penalty": "repetition_penalty",
    "draft_temperature": "draft_temperature",
    "num_assistant_tokens": "num_assistant_tokens",
    "stop": "stop",
    "json_schema": "json_schema",
    "regex": "regex",
    "lark": "lark",
}
"""Fields whose values are options, by their names."""
LENGTHS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""Fields that limit an answer; the first that is given counts."""

VERBOSITY = one_of("low", "medium", "high")
"""How long an answer is to be, of which the model is not told."""
SUMMARY = one_of("auto", "concise", "detailed")

EFFORTS: Mapping[str, int | None] = {
    "none": 0,
    "minimal": 0,
    "low": 1024,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}
"""The most tokens of a thought, by OpenAI's words; 0 is none, None sets no limit."""
TIERS = {"auto": 0, "default": 0, "flex": -1, "scale": 0, "priority": 1}
"""Priorities by OpenAI's service tiers."""

LENGTH = either(
    described_by({**INTEGER, "enum": [UNSAID]}, "leaves it to the server"), {**INTEGER, **RANGES["max_tokens"]}
)
REPETITION: Schema = {**NUMBER, **RANGES["repetition_penalty"]}

SAMPLING: Mapping[str, Schema] = optional(
    {
        **{name: described_by({**NUMBER, **RANGES[name]}, words) for name, words in NUMBERS.items()},
        "top_k": either(
            {**INTEGER, "enum": [UNSAID]}, described_by({**INTEGER, **RANGES["top_k"]}, "0 or -1 keeps all")
        ),
        "repeat_penalty": described_by(REPETITION, "another name of repetition_penalty"),
        "logit_bias": {**OBJECT, "additionalProperties": NUMBER},
        "seed": described_by({**INTEGER, "minimum": -(2**63), "maximum": 2**64 - 1}, "-1 draws one"),
        "stop": either({**TEXT, "minLength": 1}, listed({**TEXT, "minLength": 1}, most=MOST_STOPS)),
        "max_tokens": LENGTH,
        "max_completion_tokens": LENGTH,
        "draft_temperature": described_by(
            {**NUMBER, **RANGES["draft_temperature"]}, "how the assistant's drafts are drawn"
        ),
        "num_assistant_tokens": described_by(
            {**INTEGER, **RANGES["num_assistant_tokens"]}, "drafts of a round; 0 decodes plainly"
        ),
        "json_schema": described_by(OBJECT, "what the answer must be: JSON of a schema"),
        "regex": described_by(TEXT, "what the answer must be: what a regular expression matches"),
        "lark": described_by(TEXT, "what the answer must be: what a Lark grammar gives"),
        "service_tier": described_by(one_of(*TIERS), "priority begins before others, flex after them"),
        "stream": FLAG,
        "stream_options": record(optional({"include_usage": FLAG})),
        "prediction": record({"type": one_of("content"), "content": either(TEXT, listed(OBJECT))}, "content"),
        "draft_info": described_by(FLAG, "whether tokens tell which draft of a round they were"),
        "user": TEXT,
    }
)
"""Fields that every request may have."""

THINKING: Mapping[str, Schema] = optional(
    {
        "reasoning_effort": one_of(*EFFORTS),
        "reasoning": record(
            optional(
                {
                    "effort": one_of(*EFFORTS),
                    "max_tokens": {**INTEGER, "minimum": -1},
                    "enabled": FLAG,
                    "summary": SUMMARY,
                    "generate_summary": SUMMARY,
                }
            )
        ),
        "thinking": record(
            optional({"type": one_of("enabled", "disabled", "adaptive"), "budget_tokens": {**INTEGER, "minimum": -1}})
        ),
        "thinking_budget": described_by({**INTEGER, "minimum": -1}, "the most tokens of a thought; -1 sets no limit"),
        "enable_thinking": FLAG,
        "chat_template_kwargs": record(
            optional({"enable_thinking": FLAG, "thinking_budget": {**INTEGER, "minimum": -1}})
        ),
    }
)
"""Fields that say whether the model thinks, and how long."""

UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "bad_words": ([],),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "lora": ([],),
    "min_tokens": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "prompt_logprobs": (False,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "tfs_z": (1,),
    "top_n_sigma": (-1, 0),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "xtc_probability": (0,),
}
"""Fields of other servers that would change the answer and are not supported, with values that change nothing."""


def known(fields: Mapping[str, tuple[Any, ...]]) -> dict[str, Schema]:
    """Fields that are refused, as a schema has them: what they may be is not said."""
    return dict.fromkeys(fields, described_by(ANYTHING, "not supported"))


def refuse(body: Body, fields: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse fields that are not supported, unless their value changes nothing.

    Raises:
        RequestError: such a field is given.
    """
    for name, neutral in fields.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise bad_request(f"{name} is not supported", name, "unsupported_parameter")


def generation_options(body: Body, form: Any, field: str = FORMAT) -> dict[str, Any]:
    """Keywords of ``GenerationOptions``, as far as the body says.

    Args:
        body: of the request.
        form: what the answer must be, a ``response_format`` or None.
        field: where the body has it.

    Raises:
        RequestError: a value out of its range, or two that exclude each other.
    """
    options = {option: body[field] for field, option in SAME.items() if body.get(field) is not None}
    if (length := _first(body, LENGTHS)) is not None and length != UNSAID:
        options["max_tokens"] = int(length)
    if (top_k := body.get("top_k")) is not None:
        options["top_k"] = max(int(top_k), 0)
    if (seed := body.get("seed")) is not None and seed != UNSAID:
        options["seed"] = int(seed) % 2**64
    if biases := body.get("logit_bias"):
        options["logit_bias"] = _biases(biases)
    if _form(form) and "json_schema" in options:
        raise bad_request(f"{field} and json_schema exclude each other", field)
    options |= _form(form)
    _check_ranges(options, renamed(form, field))
    return options


def _first(body: Body, names: tuple[str, ...]) -> Any:
    return next((body[name] for name in names if body.get(name) is not None), None)


def _biases(biases: Mapping[str, Any]) -> dict[int, float]:
    try:
        return {int(token): float(bias) for token, bias in biases.items()}
    except (ValueError, OverflowError):
        raise bad_request("logit_bias has what is no token id, or no number to add", "logit_bias") from None


FORM = either(
    record({"type": one_of("text")}, "type"),
    record({"type": one_of("json_object"), **optional({"schema": OBJECT})}, "type"),
    record(
        {
            "type": one_of("json_schema"),
            "json_schema": record(optional({"name": TEXT, "description": TEXT, "schema": OBJECT, "strict": FLAG})),
        },
        "type",
        "json_schema",
    ),
)
"""``response_format``."""


def _form(form: Any) -> dict[str, Any]:
    """The option that holds the answer to a ``response_format``."""
    if form is None or form["type"] == "text":
        return {}
    described = form.get("json_schema", form)
    return {"json_schema": described.get("schema") or {"type": "object"}}


def renamed(form: Any, field: str = FORMAT) -> dict[str, str]:
    """Fields of a request that options are called by, where they have another name; arguments as above."""
    return dict.fromkeys(_form(form), field)


def _check_ranges(options: Mapping[str, Any], called: Mapping[str, str]) -> None:
    """Hold options to their ranges. What is not given may be as the server likes it, so that it is not held to it.

    Raises:
        RequestError: a value out of its range, or two that exclude each other.
    """
    try:
        GenerationOptions(**{"temperature": 1.0, **options})
    except OptionError as error:
        name = error.option
        raise bad_request(error.spelled(called), called.get(name, name) if name else None) from None


def thinking(body: Body, model: Model) -> tuple[bool | None, int | None]:
    """Whether the model is to think, None if that is left to the server, and with how many tokens at most."""
    template, reasoning, form = (body.get(name) or {} for name in ("chat_template_kwargs", "reasoning", "thinking"))
    effort = reasoning.get("effort") or body.get("reasoning_effort")
    switched = {"enabled": True, "disabled": False}.get(form.get("type") or "")
    wanted = [template.get("enable_thinking"), body.get("enable_thinking"), reasoning.get("enabled"), switched]
    wanted.append(EFFORTS[effort] != 0 if effort else None)
    budgets = [body.get("thinking_budget"), template.get("thinking_budget"), form.get("budget_tokens")]
    budgets += [reasoning.get("max_tokens"), (EFFORTS[effort] or None) if effort else None]
    thinks = next((each for each in wanted if each is not None), None)
    budget = next((int(each) for each in budgets if each is not None), None)
    if not model.thinking or thinks is False or budget == 0:
        return (False if thinks is False or budget == 0 else None), None
    return (True if budget else thinks), (None if budget == -1 else budget)


def prediction(body: Body) -> str | None:
    """Text that the answer is likely to repeat.

    Raises:
        RequestError: it has parts that are no text.
    """
    predicted = body.get("prediction")
    if predicted is None or isinstance(predicted["content"], str):
        return predicted and predicted["content"]
    parts = predicted["content"]
    if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
        raise bad_request("prediction.content has a part that is no text", "prediction.content")
    return "".join(part["text"] for part in parts)


def priority(body: Body) -> int:
    """Who begins first, by the service tier."""
    return TIERS[body.get("service_tier") or "default"]


def log_probabilities(body: Body) -> dict[str, int]:
    """The option that tells log-probabilities, as ``logprobs`` and ``top_logprobs`` of a chat ask for them.

    Raises:
        RequestError: the likeliest tokens are asked for without ``logprobs``.
    """
    top = int(body.get("top_logprobs") or 0)
    if body.get("logprobs"):
        return {"top_logprobs": top}
    if top:
        raise bad_request("top_logprobs needs logprobs", "top_logprobs")
    return {}


def asked_model(body: Body) -> str:
    """The name of the model that is asked for; without one, whichever is there."""
    return str(body.get("model") or "default")


LOGPROBS: Mapping[str, Schema] = optional({"logprobs": FLAG, "top_logprobs": {**INTEGER, **RANGES["top_logprobs"]}})
