"""The bodies of Ollama's API, as JSON schemas: what requests may be, and what answers are."""

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
    maybe,
    one_of,
    optional,
    record,
)
from .openai_options import LOGPROBS, SAME, SAMPLING
from .openai_tools import NAME

LEVELS = ("low", "medium", "high", "max")
"""How much is to be thought, in words."""
SOME_TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}

_OF_THE_RUNNER = (
    "num_ctx",
    "num_keep",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "use_mmap",
    "use_mlock",
    "low_vram",
    "numa",
    "f16_kv",
    "vocab_only",
    "logits_all",
    "repeat_last_n",
    "typical_p",
    "tfs_z",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "penalize_newline",
)
_LIKE_OPENAI = {name: SAMPLING[name] for name in (*SAME, "top_k", "seed") if name != "stop"}
OPTIONS = record(
    {
        **_LIKE_OPENAI,
        **optional(
            {
                "num_predict": described_by({**INTEGER, "minimum": -2}, "less than 1 sets no limit"),
                "stop": either(TEXT, listed(TEXT)),
                **dict.fromkeys(_OF_THE_RUNNER, described_by(ANYTHING, "without meaning here")),
            }
        ),
    }
)
_CALL = record(
    {
        "function": record({"name": SOME_TEXT, **optional({"arguments": OBJECT, "index": INTEGER})}, "name"),
        **optional({"id": TEXT, "type": ANYTHING}),
    },
    "function",
)
_MESSAGE = record(
    {
        "role": one_of("system", "developer", "user", "assistant", "tool"),
        **optional(
            {
                "content": TEXT,
                "thinking": TEXT,
                "images": listed(SOME_TEXT),
                "tool_calls": listed(_CALL),
                "tool_name": TEXT,
                "name": TEXT,
                "tool_call_id": TEXT,
            }
        ),
    },
    "role",
)
_TOOL = record(
    {
        "function": record({"name": NAME, **optional({"description": TEXT, "parameters": OBJECT})}, "name"),
        "type": maybe(one_of("function")),
    },
    "function",
)
_COMMON: dict[str, Schema] = {
    "model": SOME_TEXT,
    **optional(
        {
            "options": OPTIONS,
            "stream": FLAG,
            "format": either(one_of("", "json"), OBJECT),
            "think": either(FLAG, one_of(*LEVELS)),
            "keep_alive": described_by(either(TEXT, NUMBER), "without meaning here"),
            "logprobs": FLAG,
            "top_logprobs": LOGPROBS["top_logprobs"],
            "truncate": ANYTHING,
            "shift": ANYTHING,
        }
    ),
}
_REFUSED = described_by(ANYTHING, "not supported")
CHAT_BODY = record(
    {
        **_COMMON,
        **optional({"messages": listed(_MESSAGE), "tools": listed(_TOOL)}),
        **dict.fromkeys(("prompt", "system", "images", "raw", "suffix", "template", "context"), _REFUSED),
    },
    "model",
)
GENERATE_BODY = record(
    {
        **_COMMON,
        **optional(
            {
                "prompt": TEXT,
                "system": TEXT,
                "images": listed(SOME_TEXT),
                "raw": FLAG,
            }
        ),
        **dict.fromkeys(("suffix", "template", "context", "messages", "tools"), _REFUSED),
    },
    "model",
)
SHOW_BODY = record(optional({"model": TEXT, "name": TEXT, "verbose": ANYTHING}))

_LOGPROB = {"token": TEXT, "logprob": NUMBER}
_LOGPROBS = listed(record({**_LOGPROB, "top_logprobs": listed(record(_LOGPROB, *_LOGPROB))}, *_LOGPROB))
_COUNTS = ("prompt_eval_count", "eval_count")
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
_ANSWER: dict[str, Schema] = {
    "model": TEXT,
    "created_at": {"type": "string", "format": "date-time"},
    "done": FLAG,
    "done_reason": one_of("stop", "length", "load", "unload"),
    "logprobs": _LOGPROBS,
    **dict.fromkeys(_COUNTS, COUNT),
    **dict.fromkeys(_DURATIONS, described_by(COUNT, "nanoseconds")),
}
_ANSWERED_CALL = record(
    {"id": TEXT, "function": record({"index": COUNT, "name": TEXT, "arguments": OBJECT}, "name", "arguments")},
    "function",
)
_ANSWERED = record(
    {"role": one_of("assistant"), "content": TEXT, "thinking": TEXT, "tool_calls": listed(_ANSWERED_CALL)},
    "role",
    "content",
)
CHAT_ANSWER = record({**_ANSWER, "message": _ANSWERED}, "model", "created_at", "message", "done")
GENERATE_ANSWER = record({**_ANSWER, "response": TEXT, "thinking": TEXT}, "model", "created_at", "response", "done")

_DETAILS = record(
    {
        "parent_model": TEXT,
        "format": TEXT,
        "family": TEXT,
        "families": listed(TEXT),
        "parameter_size": TEXT,
        "quantization_level": TEXT,
    }
)
_LISTED = {"name": TEXT, "model": TEXT, "size": COUNT, "digest": TEXT, "details": _DETAILS}
TAGS_ANSWER = record({"models": listed(record({**_LISTED, "modified_at": TEXT}, *_LISTED, "modified_at"))}, "models")
RUNNING_ANSWER = record(
    {
        "models": listed(
            record(
                {**_LISTED, "expires_at": TEXT, "size_vram": COUNT, "context_length": COUNT},
                *_LISTED,
                "expires_at",
                "size_vram",
                "context_length",
            )
        )
    },
    "models",
)
SHOW_ANSWER = record(
    {
        **dict.fromkeys(("license", "modelfile", "parameters", "template", "modified_at"), TEXT),
        "details": _DETAILS,
        "model_info": OBJECT,
        "capabilities": listed(TEXT),
    },
    "details",
    "model_info",
    "capabilities",
)
VERSION_ANSWER = record({"version": TEXT}, "version")
