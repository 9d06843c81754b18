"""The bodies of Anthropic's Messages API, as JSON schemas: what a request may be, and what an answer is."""

from .fields import (
    ANYTHING,
    FLAG,
    NULL,
    OBJECT,
    TEXT,
    Schema,
    either,
    listed,
    maybe,
    one_of,
    optional,
    record,
)
from .openai_options import SAMPLING

HOSTED = ("web_search", "web_fetch", "code_execution", "tool_search_tool", "mcp_toolset", "advisor")
"""How types of tools begin that Anthropic's servers run themselves. The model here is not told of them."""

DOCUMENTS = ("text", "content")
"""Types of sources of documents that are read."""

SOME_TEXT: Schema = {"type": "string", "minLength": 1}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}


def _block(kind: str, fields: dict[str, Schema], *required: str, extra: dict[str, Schema] | None = None) -> Schema:
    """A block of content: fields that it must have, and others that may be null."""
    always = {"type": one_of(kind), **fields}
    return record({**always, **optional({"cache_control": ANYTHING, **(extra or {})})}, "type", *required)


_TEXT = _block("text", {"text": TEXT}, "text", extra={"citations": ANYTHING})
_SOURCES = (
    record(
        {
            "type": one_of("base64"),
            "media_type": {"type": "string", "pattern": "^image/[a-z0-9.+-]+$"},
            "data": SOME_TEXT,
        },
        "type",
        "media_type",
        "data",
    ),
    record({"type": one_of("url"), "url": {"type": "string", "pattern": "^(https?|data):"}}, "type", "url"),
)
_IMAGE = _block("image", {"source": either(*_SOURCES)}, "source")
_DOCUMENT_SOURCES = (
    record({"type": one_of(DOCUMENTS[0]), "media_type": maybe(TEXT), "data": TEXT}, "type", "data"),
    record({"type": one_of(DOCUMENTS[1]), "content": either(TEXT, listed(either(_TEXT, _IMAGE)))}, "type", "content"),
)
_DOCUMENT = _block(
    "document",
    {"source": either(*_DOCUMENT_SOURCES)},
    "source",
    extra={"title": TEXT, "context": TEXT, "citations": ANYTHING},
)
_SEARCH_RESULT = _block(
    "search_result",
    {"source": TEXT, "title": TEXT, "content": listed(_TEXT)},
    "source",
    "title",
    "content",
    extra={"citations": ANYTHING},
)
_TOOL_REFERENCE = _block("tool_reference", {"tool_name": TEXT}, "tool_name")
_RESULT = listed(either(_TEXT, _IMAGE, _DOCUMENT, _SEARCH_RESULT, _TOOL_REFERENCE))
_TOOL_RESULT = _block(
    "tool_result",
    {"tool_use_id": SOME_TEXT},
    "tool_use_id",
    extra={"content": either(TEXT, _RESULT), "is_error": FLAG},
)
_THINKING = _block("thinking", {"thinking": TEXT}, "thinking", extra={"signature": TEXT})
_REDACTED_THINKING = _block("redacted_thinking", {}, extra={"data": TEXT})
_TOOL_USE = _block(
    "tool_use",
    {"id": SOME_TEXT, "name": SOME_TEXT, "input": OBJECT},
    "id",
    "name",
    "input",
    extra={"caller": ANYTHING},
)


def _message(role: str, *blocks: Schema) -> Schema:
    return record({"role": one_of(role), "content": either(TEXT, listed(either(*blocks)))}, "role", "content")


_MESSAGES = listed(
    either(
        _message("user", _TEXT, _IMAGE, _DOCUMENT, _SEARCH_RESULT, _TOOL_RESULT),
        _message("assistant", _TEXT, _THINKING, _REDACTED_THINKING, _TOOL_USE),
        _message("system", _TEXT),
    ),
    least=1,
)
_CUSTOM_TOOL = record(
    {
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,128}$"},
        "input_schema": OBJECT,
        **optional(
            {
                "type": one_of("custom"),
                "description": TEXT,
                "strict": FLAG,
                "cache_control": ANYTHING,
                "defer_loading": ANYTHING,
                "eager_input_streaming": ANYTHING,
                "input_examples": ANYTHING,
                "allowed_callers": ANYTHING,
            }
        ),
    },
    "name",
    "input_schema",
)
_HOSTED_TOOL = record({"type": {"type": "string", "pattern": f"^({'|'.join(HOSTED)})"}, "name": maybe(TEXT)}, "type")
_TOOL_CHOICES = (
    record({"type": one_of("auto", "any"), "disable_parallel_tool_use": maybe(FLAG)}, "type"),
    record({"type": one_of("tool"), "name": TEXT, "disable_parallel_tool_use": maybe(FLAG)}, "type", "name"),
    record({"type": one_of("none")}, "type"),
)
_DISPLAY = {"display": maybe(one_of("summarized", "omitted"))}
_THINKING_CONFIGS = (
    record({"type": one_of("enabled"), "budget_tokens": POSITIVE, **_DISPLAY}, "type", "budget_tokens"),
    record({"type": one_of("adaptive"), **_DISPLAY}, "type"),
    record({"type": one_of("disabled")}, "type"),
)
_FORMAT = record({"type": one_of("json_schema"), "schema": OBJECT}, "type", "schema")
_OUTPUT_CONFIG = record(
    optional({"effort": one_of("low", "medium", "high", "xhigh", "max"), "format": _FORMAT, "task_budget": ANYTHING})
)
_PROMPT: dict[str, Schema] = {
    "model": SOME_TEXT,
    "messages": _MESSAGES,
    **optional(
        {
            "system": either(TEXT, listed(_TEXT)),
            "thinking": either(*_THINKING_CONFIGS),
            "tools": listed(either(_CUSTOM_TOOL, _HOSTED_TOOL)),
            "tool_choice": either(*_TOOL_CHOICES),
            "output_config": _OUTPUT_CONFIG,
            "output_format": _FORMAT,
            "mcp_servers": ANYTHING,
            "container": ANYTHING,
            "cache_control": ANYTHING,
            "context_management": ANYTHING,
            "betas": ANYTHING,
        }
    ),
}
OPTIONS = ("max_tokens", "temperature", "top_p", "top_k")
"""Fields that mean what they mean to OpenAI's servers."""

_GENERATION: dict[str, Schema] = {
    **{name: SAMPLING[name] for name in OPTIONS},
    "max_tokens": POSITIVE,
    **optional(
        {
            "stream": FLAG,
            "stop_sequences": listed(SOME_TEXT),
            "metadata": ANYTHING,
            "service_tier": one_of("auto", "standard_only"),
            "inference_geo": ANYTHING,
            "speed": one_of("standard", "fast"),
            "diagnostics": ANYTHING,
        }
    ),
}
MESSAGE_BODY = record({**_PROMPT, **_GENERATION}, "model", "messages", "max_tokens")
COUNT_BODY = record(_PROMPT, "model", "messages")

_USAGE = record(
    dict.fromkeys(("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"), COUNT),
    "input_tokens",
    "output_tokens",
)
_ANSWER_BLOCKS = (
    record({"type": one_of("text"), "text": TEXT}, "type", "text"),
    record({"type": one_of("thinking"), "thinking": TEXT, "signature": TEXT}, "type", "thinking", "signature"),
    record({"type": one_of("tool_use"), "id": TEXT, "name": TEXT, "input": OBJECT}, "type", "id", "name", "input"),
)
_ANSWER = {
    "id": TEXT,
    "type": one_of("message"),
    "role": one_of("assistant"),
    "model": TEXT,
    "content": listed(either(*_ANSWER_BLOCKS)),
    "stop_reason": one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"),
    "stop_sequence": maybe(TEXT),
    "stop_details": NULL,
    "usage": _USAGE,
}
MESSAGE_ANSWER = record(_ANSWER, *_ANSWER)
COUNT_ANSWER = record({"input_tokens": COUNT}, "input_tokens")
