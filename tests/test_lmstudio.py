"""LM Studio's API: OpenAI's answers with more figures, and facts of the model."""

from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator
from support.exchanges import MODEL, TALK, WORK, exchange, script, streamed, whole

from mlx_gemma4_assist.server import openai
from mlx_gemma4_assist.server.endpoint import Health
from mlx_gemma4_assist.server.exchange import (
    Answer,
    Failed,
    Finished,
    FinishReason,
    Progress,
    RequestError,
    Started,
    Usage,
    collected,
)
from mlx_gemma4_assist.server.lmstudio import ENDPOINTS, LOOKUPS

HI = {"messages": [{"role": "user", "content": "Hi"}], "ttl": 60}
PROMPT = {"prompt": "Hi", "max_tokens": -1}
CHAT, COMPLETIONS = ENDPOINTS
PLAIN = {each.name: each for each in openai.ENDPOINTS}
FIGURES = {
    "stats": {"tokens_per_second": 6, "time_to_first_token": 0.75, "generation_time": 2, "stop_reason": "eosFound"},
    "model_info": {"arch": "gemma4", "quant": "bf16", "format": "mlx", "context_length": 131072},
}
BOTH = [(CHAT, PLAIN["openai.chat"], HI), (COMPLETIONS, PLAIN["openai.completions"], PROMPT)]


@pytest.mark.parametrize(("endpoint", "plain", "body"), BOTH)
def test_whole_answers_are_openais_with_figures(endpoint, plain, body):
    made = whole(endpoint, body, script(*TALK))
    assert made.pop("runtime")["supported_formats"] == ["mlx"]
    assert {name: made.pop(name) for name in FIGURES} == FIGURES
    assert made == whole(plain, body, script(*TALK))
    assert endpoint.whole(exchange(endpoint, body), Answer()) == plain.whole(exchange(plain, body), Answer())


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize(("endpoint", "plain", "body"), BOTH)
def test_streams_are_openais_whose_last_chunk_has_figures(endpoint, plain, body, usage):
    body = {**body, "stream": True, "stream_options": {"include_usage": usage}}
    events = [Progress(1, 2), *script(*(TALK if endpoint is COMPLETIONS else WORK))]
    *chunks, last, done = streamed(endpoint, body, events)
    assert done == "[DONE]"
    assert last.pop("runtime")
    assert {name: last.pop(name) for name in FIGURES} == FIGURES
    assert [*chunks, last, done] == streamed(plain, body, events)


@pytest.mark.parametrize(
    ("reason", "stop", "told"),
    [
        (FinishReason.STOP, None, "eosFound"),
        (FinishReason.STOP, "END", "stopStringFound"),
        (FinishReason.LENGTH, None, "maxPredictedTokensReached"),
        (FinishReason.TOOL_CALLS, None, "toolCalls"),
    ],
)
def test_stop_reasons(reason, stop, told):
    stats = whole(CHAT, HI, [Started(1, 0), Finished(0, reason, stop, Usage(1))])["stats"]
    assert (stats["stop_reason"], stats["tokens_per_second"]) == (told, 0)


def test_errors_are_openais():
    refused = RequestError(400, "No.", param="x")
    assert CHAT.error(refused) == PLAIN["openai.chat"].error(refused)
    assert streamed(CHAT, HI, [Failed(refused)])[0] == CHAT.error(refused)


class Loaded:
    """A backend of which only facts are asked."""

    def __init__(self, status="ok", **facts):
        self.status, self.model = status, replace(MODEL, **facts)

    def health(self):
        return Health(self.status, self.model.id)


def look(number, backend, **parameters):
    told = LOOKUPS[number].answer(backend, parameters, {})
    Draft202012Validator(LOOKUPS[number].answer_schema).validate(told)
    return told


def test_models():
    told = look(0, Loaded(quantization="4bit"))
    assert told["object"] == "list"
    assert told["data"] == [
        {
            "id": "google/gemma-4-E2B-it",
            "object": "model",
            "type": "vlm",
            "publisher": "google",
            "arch": "gemma4",
            "compatibility_type": "mlx",
            "quantization": "4bit",
            "state": "loaded",
            "max_context_length": 131072,
            "loaded_context_length": 131072,
            "capabilities": ["tool_use"],
        }
    ]
    assert look(1, Loaded(quantization="4bit"), model="gemma-4-E2B-it") == told["data"][0]
    with pytest.raises(RequestError) as raised:
        look(1, Loaded(), model="llama")
    assert raised.value.status == 404


def test_a_model_that_is_not_loaded():
    told = look(1, Loaded("unloaded", pictures=False, tools=False), model=MODEL.id)
    assert (told["state"], told["type"], told["capabilities"]) == ("not-loaded", "llm", [])
    assert "loaded_context_length" not in told


def test_where_it_answers():
    assert [endpoint.paths for endpoint in ENDPOINTS] == [("/api/v0/chat/completions",), ("/api/v0/completions",)]
    assert [lookup.paths for lookup in LOOKUPS] == [("/api/v0/models",), ("/api/v0/models/{model:path}",)]
    assert {each.prefixes for each in (*ENDPOINTS, *LOOKUPS)} == {("",)}


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"dtype": "float32"}, "f32"),
        ({"dtype": "bfloat16"}, "bf16"),
        ({"dtype": "bfloat16", "quantization": "4bit"}, "4bit"),
        ({"dtype": ""}, ""),
    ],
)
def test_the_format_of_the_weights(facts, told):
    assert look(1, Loaded(**facts), model=MODEL.id)["quantization"] == told
    made = CHAT.whole(exchange(CHAT, HI, replace(MODEL, **facts)), collected(script(*TALK)))
    assert made["model_info"]["quant"] == told


def test_what_came_at_once_has_no_speed():
    """Of one round no time can be told."""
    ended = Finished(0, FinishReason.LENGTH, None, Usage(3, rounds=1), generation=1e-6)
    made = whole(CHAT, HI, [Started(1, 0), ended])
    assert made["stats"]["tokens_per_second"] == made["timings"]["predicted_per_second"] == 0.0
    ended = replace(ended, usage=Usage(3, rounds=2), generation=0.5)
    made = whole(CHAT, HI, [Started(1, 0), ended])
    assert made["stats"]["tokens_per_second"] == made["timings"]["predicted_per_second"] == 6.0
