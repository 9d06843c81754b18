"""What the Responses API takes and gives, as JSON schemas."""

from . import openai_answers as answers
from . import openai_options as options
from .fields import FLAG, INTEGER, NUMBER, OBJECT, TEXT, Schema, either, listed, maybe, one_of, optional, record
from .responses_input import GIVEN
from .responses_tools import TOOLS

LOGPROBS = "message.output_text.logprobs"
SEALED = "reasoning.encrypted_content"
"""What ``include`` may ask for; more is left out of answers that have nothing of the kind."""

UNSUPPORTED = {
    **options.UNSUPPORTED,
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "prompt": (),
}

FORM = either(
    record({"type": one_of("text")}, "type"),
    record({"type": one_of("json_object")}, "type"),
    record(
        {"type": one_of("json_schema"), "schema": OBJECT, **optional({"name": TEXT, "strict": FLAG})},
        "type",
        "schema",
    ),
)

BODY: Schema = record(
    {
        "model": maybe(TEXT),
        "input": GIVEN,
        **options.SAMPLING,
        **options.THINKING,
        **TOOLS,
        **optional(
            {
                "instructions": TEXT,
                "max_output_tokens": {**INTEGER, **options.RANGES["max_tokens"]},
                "text": record(optional({"format": FORM, "verbosity": options.VERBOSITY})),
                "include": listed(TEXT),
                "top_logprobs": options.LOGPROBS["top_logprobs"],
                "metadata": OBJECT,
                "previous_response_id": {**TEXT, "description": "not supported"},
                "store": FLAG,
                "truncation": one_of("auto", "disabled"),
                "max_tool_calls": INTEGER,
                "prompt_cache_key": TEXT,
                "safety_identifier": TEXT,
            }
        ),
        **options.known(UNSUPPORTED),
    },
    "input",
)

_OUTPUT = either(
    record({"type": one_of("message"), "id": TEXT, "role": TEXT, "status": TEXT, "content": listed(OBJECT)}, "type"),
    record({"type": one_of("reasoning"), "id": TEXT, "summary": listed(OBJECT)}, "type", "id", "summary"),
    record(
        {"type": one_of("function_call"), "id": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT},
        "type",
        "call_id",
        "name",
        "arguments",
    ),
    record({"type": one_of("custom_tool_call"), "call_id": TEXT, "name": TEXT, "input": TEXT}, "type", "call_id"),
)
_USAGE = record(
    {
        "input_tokens": INTEGER,
        "input_tokens_details": record({"cached_tokens": INTEGER}, "cached_tokens"),
        "output_tokens": INTEGER,
        "output_tokens_details": record({"reasoning_tokens": INTEGER}, "reasoning_tokens"),
        "total_tokens": INTEGER,
    },
    "input_tokens",
    "output_tokens",
    "total_tokens",
)
ANSWER: Schema = record(
    {
        "id": TEXT,
        "object": one_of("response"),
        "created_at": NUMBER,
        "status": one_of("completed", "incomplete"),
        "model": TEXT,
        "output": listed(_OUTPUT),
        "usage": _USAGE,
        "incomplete_details": maybe(record({"reason": TEXT}, "reason")),
        "timings": answers.TIMINGS,
    },
    "id",
    "object",
    "created_at",
    "status",
    "model",
    "output",
    "usage",
)
