"""The server's backend: what it says is what ``stream_generate`` says, in the exchange's events; refusals are told."""

import json
import queue
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.chat_format import chat_processor

from mlx_gemma4_assist import InputError, Pair, Processor, stream_generate
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.server.exchange import (
    ChatRequest,
    Event,
    Failed,
    Finished,
    FinishReason,
    Piece,
    Progress,
    RequestError,
    Started,
    TextRequest,
    ToolChoice,
    collected,
)
from mlx_gemma4_assist.server.service import Service, Settings

PATIENCE = 60  # seconds, after which a test has failed
STORY = "Once upon a time there was a little girl who lived in a house near the wood, and every day she went"


@pytest.fixture(scope="module")
def checkpoint():
    return Checkpoint.open("tiny")


@pytest.fixture(scope="module")
def pair(checkpoint):
    return checkpoint.load()


@pytest.fixture
def services(checkpoint, pair):
    """Makes services on the loaded pair, and closes them in the end."""
    made = []

    def make(checkpoint=checkpoint, load=lambda: pair, engine=Engine, **settings: Any) -> Service:
        made.append(Service(checkpoint, Settings(**settings), load=load, engine=engine))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture(scope="module")
def shared(checkpoint, pair):
    service = Service(checkpoint, load=lambda: pair)
    yield service
    service.close()


def asked(service: Service, request, answers: int | None = None) -> list[Event]:
    """All events of a request."""
    heard: queue.Queue[Event] = queue.Queue()
    service.submit(request, heard.put)
    return until_over(heard, request, answers)


def until_over(heard: "queue.Queue[Event]", request, answers: int | None = None) -> list[Event]:
    prompts = len(request.prompts) if isinstance(request, TextRequest) else 1
    left, events = request.answers * prompts if answers is None else answers, []
    while left:
        events.append(heard.get(timeout=PATIENCE))
        if isinstance(events[-1], Failed):
            return events
        left -= isinstance(events[-1], Finished)
    return events


def chat(text: str = "Tell me of the sea.", **values: Any) -> ChatRequest:
    options = {"max_tokens": 16} | values.pop("options", {})
    return ChatRequest(model="tiny", messages=[{"role": "user", "content": text}], options=options, **values)


def raw(*prompts: Any, **values: Any) -> TextRequest:
    options = {"max_tokens": 16} | values.pop("options", {})
    return TextRequest(model="tiny", prompts=prompts, options=options, **values)


def alone(pair: Pair, prompt: Any, *, chat: bool = True, **options: Any) -> tuple[str, str]:
    """A text and why it ended."""
    options = {"max_tokens": 16} | options
    made = list(stream_generate(pair.target, pair.processor, prompt, pair.assistant, chat=chat, **options))
    return "".join(response.text for response in made), made[-1].finish_reason


def said(events: list[Event], choice: int = 0) -> tuple[str, str]:
    answer = collected(events).choices[choice]
    return answer.answer, str(answer.finished.reason)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 0.7, "seed": 4, "top_k": 9, "repetition_penalty": 1.2},
        {"stop": ["e"]},
        {"stop": ["he ", "th"], "max_tokens": 60},
        {"num_assistant_tokens": 0},
    ],
)
def test_an_answer_is_as_alone(shared, pair, options):
    for stream in (False, True):
        answer = asked(shared, chat(options=options, stream=stream))
        assert said(answer) == alone(pair, "Tell me of the sea.", **options)
        continuation = asked(shared, raw(STORY, options=options, stream=stream))
        assert said(continuation) == alone(pair, STORY, chat=False, **options)


def test_many_at_once_from_several_threads(shared, pair):
    wanted = [{"temperature": float(i % 2), "seed": i, "max_tokens": 6 + 3 * i} for i in range(9)]
    found: dict[int, tuple[str, str]] = {}

    def ask(some: list[dict[str, Any]]) -> None:
        for options in some:
            found[options["seed"]] = said(asked(shared, chat(STORY[: 20 + options["seed"]], options=options)))

    threads = [threading.Thread(target=ask, args=(wanted[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for options in wanted:
        assert found[options["seed"]] == alone(pair, STORY[: 20 + options["seed"]], **options)
    assert (shared.health().running, shared.health().waiting) == (0, 0)


def test_events_come_in_their_order(shared):
    events = asked(shared, raw(STORY * 3, stream=True, options={"prefill_step_size": 32}))
    kinds = [type(event) for event in events]
    pieces = kinds.count(Piece)
    assert kinds == [Progress] * kinds.count(Progress) + [Started] + [Piece] * pieces + [Finished]
    progress = [event for event in events if isinstance(event, Progress)]
    answer = collected(events)
    assert (progress[0].done, progress[-1].done) == (answer.cached_tokens, answer.prompt_tokens)
    assert {each.total for each in progress} == {answer.prompt_tokens}
    assert len(progress) > 2
    assert answer.prompt_tokens == len(shared.tokens(raw(STORY * 3)))
    (choice,) = answer.choices
    usage = choice.finished.usage
    assert usage.completion_tokens == len(choice.tokens) == 16
    assert usage.rounds == pieces
    assert usage.accepted == sum(usage.accepted_at) >= sum(token.draft > 0 for token in choice.tokens)
    assert usage.drafted == sum(usage.drafted_at)
    assert "".join(token.text for token in choice.tokens) == choice.answer
    assert min(choice.finished.queued, choice.finished.prompt, choice.finished.generation) >= 0


def test_drafts_have_their_places(shared):
    events = asked(shared, raw(STORY, options={"num_assistant_tokens": 3, "max_tokens": 60}))
    pieces = [event.tokens for event in events if isinstance(event, Piece)]
    assert any(token.draft for piece in pieces for token in piece)
    for piece in pieces:
        accepted = sum(token.draft > 0 for token in piece)
        assert [token.draft for token in piece] == [*range(1, accepted + 1), *[0] * (len(piece) - accepted)]


def test_what_was_read_before_is_told(services):
    service = services()
    first, again = (collected(asked(service, raw(STORY * 3))) for _ in range(2))
    assert first.cached_tokens == 0
    assert again.cached_tokens == again.prompt_tokens - 1


def test_several_answers_of_one_prompt(services, pair):
    service = services()
    options = {"temperature": 1.0, "seed": 7}
    events = asked(service, chat(STORY * 3, options=options, answers=3, stream=True))
    for number in range(3):
        assert said(events, number) == alone(pair, STORY * 3, **options | {"seed": 7 + number})
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].total < 1.1 * len(service.tokens(chat(STORY * 3))), "the prompt is read once"
    assert sum(isinstance(event, Started) for event in events) == 1
    unseeded = collected(asked(service, chat(options={"temperature": 2.0}, answers=3)))
    assert len({choice.answer for choice in unseeded.choices}) > 1


def test_several_prompts(shared, pair):
    ids = pair.processor.encode("It was", chat=False)
    request = raw(STORY, ids, "The sea", options={"temperature": 1.0, "seed": 1}, answers=2)
    events = asked(shared, request)
    for place, prompt in enumerate((STORY, ids, "The sea")):
        for number in range(2):
            wanted = alone(pair, prompt, chat=False, temperature=1.0, seed=1 + number)
            assert said(events, 2 * place + number) == wanted
    started = [event for event in events if isinstance(event, Started)]
    assert [event.prompt_tokens for event in started] == [len(shared.tokens(request))]


def test_a_prompt_before_its_continuation(shared, pair):
    for stream in (False, True):
        text, _ = said(asked(shared, raw("It was", echo=True, stream=stream)))
        assert text == "It was" + alone(pair, "It was", chat=False)[0]


def test_log_probabilities(shared, pair):
    tokens = collected(asked(shared, raw(STORY, options={"top_logprobs": 3}))).choices[0].tokens
    wanted = list(stream_generate(pair.target, pair.processor, STORY, chat=False, max_tokens=16, top_logprobs=3))
    assert [token.id for token in tokens] == [response.token for response in wanted]
    assert np.allclose([token.logprob for token in tokens], [response.logprob for response in wanted], atol=1e-4)
    for token, response in zip(tokens, wanted, strict=True):
        assert [place[0] for place in token.top] == [place[0] for place in response.top_logprobs]
        assert token.top[0] == (token.id, token.text, pytest.approx(token.logprob))


def test_a_text_that_is_foreseen_takes_fewer_rounds(services, pair):
    """And it is the same, whether what is foreseen is right, half right or wrong."""
    service = services()
    greedy, drawn = {"max_tokens": 48}, {"max_tokens": 24, "temperature": 0.3, "seed": 2}
    text, _ = alone(pair, STORY, chat=False, **greedy)
    wanted = [alone(pair, STORY, chat=False, **options) for options in (greedy, drawn)]
    rounds = {}
    for name, prediction in {"none": None, "right": text, "half": text[:60] + "x" + text[70:], "wrong": "No."}.items():
        for options, expected in zip((greedy, drawn), wanted, strict=True):
            events = asked(service, raw(STORY, options=options, prediction=prediction))
            assert said(events) == expected
            rounds.setdefault(name, collected(events).usage.rounds)
    assert rounds["right"] < 0.6 * rounds["none"]
    assert rounds["right"] < rounds["half"] < rounds["none"]


def test_the_answer_is_held_by_a_schema(shared):
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    for prediction in (None, '{"a": "y"}'):
        request = chat(options={"json_schema": schema, "max_tokens": 40}, prediction=prediction)
        assert said(asked(shared, request))[0] in ('{"a": "x"}', '{"a": "y"}')


# Refusals


def refusal(service: Service, request) -> RequestError:
    with pytest.raises(RequestError) as caught:
        service.submit(request, lambda event: None)
    return caught.value


def test_what_is_wrong_with_a_request(shared):
    too_long = refusal(shared, raw([9] * 4096))
    assert (too_long.status, too_long.code, too_long.param) == (400, "context_length_exceeded", "prompt")
    assert "maximum context length" in too_long.message
    assert refusal(shared, raw("a", options={"temperature": -1})).param == "temperature"
    called = {"fields": {"json_schema": "response_format"}}
    form = refusal(shared, chat(options={"json_schema": {"type": "string", "format": "no-such"}}, **called))
    assert (form.status, form.param) == (400, "response_format")
    assert form.message.startswith("response_format is not supported: ")
    for request in (
        raw("a", options={"heat": 1}),
        raw([5000]),
        raw(""),
        raw(),
        raw("a", answers=0),
        chat(""[:0], thinking=True),
        replace(chat(), messages=[]),
        replace(chat(), messages=[{"role": "nobody", "content": "hi"}]),
        chat(options={"json_schema": {"type": "nonsense"}}),
    ):
        assert refusal(shared, request).status == 400
    assert shared.health().running == shared.health().waiting == 0


def test_pictures_for_a_text_model(shared):
    part = {"type": "image", "url": "data:image/png;base64,aaaa"}
    assert "text" in refusal(shared, replace(chat(), messages=[{"role": "user", "content": [part]}])).message


def test_a_shorter_context(services, pair):
    service = services(context=64)
    assert service.model.context == 64
    assert refusal(service, raw([9] * 64)).code == "context_length_exceeded"
    events = asked(service, raw([9] * 60, options={"max_tokens": 50}))
    assert len(collected(events).choices[0].tokens) <= 4


def test_defaults_are_the_servers(services, pair):
    service = services(options={"temperature": 1.0, "seed": 5}, max_tokens=7)
    request = TextRequest(model="tiny", prompts=[STORY])
    assert said(asked(service, request)) == alone(pair, STORY, chat=False, temperature=1.0, seed=5, max_tokens=7)
    assert said(asked(service, replace(request, options={"temperature": 0}))) == alone(
        pair, STORY, chat=False, max_tokens=7
    )
    with pytest.raises(InputError, match="temperature"):
        services(options={"temperature": -1})


def test_a_full_queue(services):
    service = services(max_waiting=0)
    heard = [queue.Queue() for _ in range(16)]
    requests = [raw(STORY, options={"max_tokens": 40}) for _ in heard]
    for each, request in zip(heard, requests, strict=True):
        service.submit(request, each.put)
    full = refusal(service, raw("a"))
    assert (full.status, full.kind, full.code) == (503, "overloaded_error", "queue_full")
    assert full.retry_after >= 1
    for each, request in zip(heard, requests, strict=True):
        assert said(until_over(each, request))[1] == "length"


def test_no_memory(services):
    service = services(engine=lambda pair: Engine(pair, memory_limit=pair.nbytes + 1000))
    (failed,) = asked(service, raw(STORY))
    assert isinstance(failed, Failed)
    assert (failed.error.status, failed.error.code) == (503, "out_of_memory")


def test_a_client_that_goes_away(services, pair):
    service = services()
    events = []
    gone = threading.Event()

    def hear(event: Event) -> None:
        events.append(event)
        if isinstance(event, Piece):
            ticket.cancel()
            gone.set()

    ticket = service.submit(chat(options={"max_tokens": 3000}, answers=2, stream=True), hear)
    assert gone.wait(PATIENCE)
    assert said(asked(service, raw(STORY))) == alone(pair, STORY, chat=False)
    assert service.health().running == service.health().waiting == 0
    assert sum(isinstance(event, Piece) for event in events) == 1
    ticket.cancel()


def test_a_step_that_fails(services, pair):
    service = services()

    def broken(tokens: Any, logits: Any) -> Any:
        raise ArithmeticError("it broke")

    events = asked(service, raw(STORY, options={"logits_processors": [broken]}, answers=3))
    assert [type(event) for event in events if not isinstance(event, Progress)] == [Failed]
    assert events[-1].error.status == 500
    assert "it broke" in events[-1].error.message
    assert said(asked(service, raw(STORY))) == alone(pair, STORY, chat=False)
    assert (service.health().status, service.health().running) == ("ok", 0)


def test_an_engine_that_stands_still(services):
    service = services(stuck_after=0.05)
    held, goes = threading.Event(), threading.Event()

    def hear(event: Event) -> None:
        if isinstance(event, Started):
            held.set()
            goes.wait(PATIENCE)

    service.submit(raw(STORY, stream=True), hear)
    assert held.wait(PATIENCE)
    assert not goes.wait(0.1)
    assert service.health().status == "stuck"
    goes.set()
    asked(service, raw(STORY))
    assert service.health().status == "ok"


def test_a_model_comes_and_goes(services, pair):
    reasons = [InputError("there is no folder")]

    def load() -> Pair:
        if reasons:
            raise reasons.pop()
        return pair

    service = services(load=load, ttl=0.05)
    assert service.health().status == "unloaded"
    (failed,) = asked(service, raw(STORY))
    assert (failed.error.status, failed.error.code) == (503, "model_not_loaded")
    assert "there is no folder" in failed.error.message
    for _ in range(2):
        assert said(asked(service, raw(STORY))) == alone(pair, STORY, chat=False)
        waits = threading.Event()
        for _ in range(100):
            if service.health().status == "unloaded":
                break
            waits.wait(0.05)
        assert service.health().status == "unloaded"


def test_closing(services):
    service = services()
    heard: queue.Queue[Event] = queue.Queue()
    request = raw(STORY, options={"max_tokens": 3000}, stream=True)
    service.submit(request, heard.put)
    while not isinstance(heard.get(timeout=PATIENCE), Started):
        pass
    service.close()
    assert until_over(heard, request)[-1].error.status == 503
    assert refusal(service, raw("a")).status == 503
    assert service.health().status == "dead"


# Text


def test_tokens_and_text(shared, pair):
    ids = pair.processor.encode("Tell me of the sea.")
    assert shared.tokens(chat()) == ids
    assert shared.render(chat()) == shared.detokenize(ids)
    assert shared.render(chat()).startswith("<bos><|turn>user\nTell me")
    assert (
        shared.tokenize("the sea") == ids[: len(shared.tokenize("the sea"))]
        or shared.detokenize(shared.tokenize("the sea")) == "the sea"
    )
    with pytest.raises(RequestError, match="no token 1024"):
        shared.detokenize([1024])
    assert shared.health().running == 0


def test_the_model(shared):
    model = shared.model
    assert (model.id, model.context, model.assistant) == ("tiny", 4096, "tiny-assistant")
    assert {model.pictures, model.sound, model.video, model.thinking} == {False}
    assert model.size > 100_000


# Thoughts


@pytest.fixture(scope="module")
def thinker(checkpoint, tmp_path_factory):
    """The same networks with a tokenizer that has Gemma 4's markers."""
    return replace(checkpoint, processor=chat_processor(tmp_path_factory.mktemp("thinker")))


@pytest.fixture
def thinking(services, thinker, pair):
    """A service that thinks and knows tools."""

    def make(**settings: Any) -> Service:
        return services(thinker, lambda: Pair(pair.target, pair.assistant, thinker.processor), **settings)

    return make


def written(processor: Processor, text: str, *, at_end: bool = True):
    """A logits processor by which a text is written, and then, unless that is the end, whatever comes."""
    wanted = processor.tokenize(text)
    begun: list[int] = []

    def force(tokens: Any, logits: Any) -> Any:
        if not begun:
            begun.append(len(tokens))
        place = len(tokens) - begun[0]
        if place >= len(wanted) and not at_end:
            return logits
        bias = np.full((1, logits.shape[-1]), -np.inf, np.float32)
        bias[0, wanted[min(place, len(wanted) - 1)]] = 0
        return logits + type(logits)(bias)

    return force


@pytest.mark.parametrize("asked_for", [None, True])
def test_thoughts_are_told_apart(thinking, thinker, asked_for):
    service = thinking(thinking=asked_for is None)
    assert service.model.thinking
    text = "<|channel>thought\nhm, 2 + 2\n<channel|>It is 4.<turn|>"
    options = {"logits_processors": [written(thinker.processor, text)], "max_tokens": 100}
    request = chat(options=options, thinking=asked_for)
    (choice,) = collected(asked(service, request)).choices
    assert (choice.thought, choice.answer) == ("hm, 2 + 2", "It is 4.")
    assert choice.finished.reason is FinishReason.STOP
    assert 4 < choice.finished.usage.reasoning_tokens < len(choice.tokens) - 6
    assert "<|think|>" in service.render(request)
    assert "<|think|>" not in service.render(replace(request, thinking=False))


def test_the_next_turn_is_read_ahead(thinking, thinker):
    """What stays of an answer with thoughts has other keys: it is read while nobody asks."""
    service = thinking(thinking=True)
    text = f"<|channel>thought\nhm, 2 + 2\n<channel|>{STORY}<turn|>"
    options = {"logits_processors": [written(thinker.processor, text)], "max_tokens": 300}
    first = collected(asked(service, chat(STORY, options=options)))
    turns = [("user", STORY), ("assistant", first.choices[0].answer), ("user", "And then?")]
    waits = threading.Event()
    while service.health().idle < 0.1:
        waits.wait(0.02)
    messages = [{"role": role, "content": content} for role, content in turns]
    again = collected(asked(service, replace(chat(), messages=messages)))
    assert again.cached_tokens > first.prompt_tokens + len(thinker.processor.tokenize(STORY)) - 2


BIASES = {"<|channel>": 99.0, "<channel|>": -99.0, "<turn|>": -99.0, "<eos>": -99.0}


def biases(processor: Processor) -> dict[int, float]:
    """Of a model that thinks for ever."""
    return {processor.tokenize(text)[0]: bias for text, bias in BIASES.items()}


def test_thoughts_have_a_budget(thinking, thinker):
    service = thinking()
    options = {"logit_bias": biases(thinker.processor), "max_tokens": 40}
    (choice,) = collected(asked(service, chat(options=options, thinking=True, thinking_budget=9))).choices
    assert choice.finished.usage.reasoning_tokens == 9
    assert choice.answer != ""


def test_who_has_waited_enough_says_so(thinking, thinker):
    """Nothing holds the answer before."""
    service, heard = thinking(), queue.Queue()
    begins = written(thinker.processor, "<|channel>thought\n", at_end=False)
    never = dict.fromkeys(biases(thinker.processor), -99.0)
    options = {"logit_bias": never, "logits_processors": [begins], "max_tokens": 60}
    request = chat(options=options, thinking=True, stream=True, answers=2)
    events = []

    def hear(event: Event) -> None:
        events.append(event)
        if sum(isinstance(event, Piece) for event in events) == 40:
            ticket.end_thought()
        heard.put(event)

    ticket = service.submit(request, hear)
    for choice in collected(until_over(heard, request)).choices:
        assert choice.thought != ""
        assert choice.finished.usage.reasoning_tokens < 40
        assert choice.answer != ""


# Tools

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"enum": ["x", "y"]}}}}}
TOOL["function"]["parameters"] |= {"type": "object", "required": ["a"], "additionalProperties": False}


def test_a_call_comes_back_as_it_was_written(thinking, thinker):
    """Over two turns, where the next prompt is read on from what is known."""
    service, processor = thinking(), thinker.processor
    text = STORY + '.<|tool_call>call:f{ a: <|"|>x<|"|> }<tool_call|><|tool_response>'
    options = {"logits_processors": [written(processor, text)], "max_tokens": 300}
    request = chat(STORY, options=options, tools=[TOOL])
    (choice,) = collected(asked(service, request)).choices
    assert choice.finished.reason is FinishReason.TOOL_CALLS
    assert (choice.answer, [(call.name, json.loads(call.arguments)) for call in choice.calls]) == (
        f"{STORY}.",
        [("f", {"a": "x"})],
    )
    call = {"id": choice.calls[0].id, "type": "function", "function": {"name": "f", "arguments": {"a": "x"}}}
    behind = [
        {"role": "assistant", "content": choice.answer, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": choice.calls[0].id, "content": "sunny"},
    ]
    second = replace(request, messages=[*request.messages, *behind], options={"max_tokens": 3})
    known = [*service.tokens(request), *processor.tokenize(text)]
    assert service.tokens(second)[: len(known)] == known
    assert collected(asked(service, second)).cached_tokens == len(known) - 1


@pytest.mark.parametrize("choice", [ToolChoice.REQUIRED, ToolChoice.NAMED, ToolChoice.NONE])
def test_tools_that_must_or_must_not_be_called(thinking, thinker, choice):
    service = thinking()
    named = "f" if choice is ToolChoice.NAMED else None
    begins = thinker.processor.tokenize("<|tool_call>")[0]
    options = {"max_tokens": 60, "temperature": 1.0, "logit_bias": {begins: 9.0}}
    for seed in range(2):
        request = chat(options=options | {"seed": seed}, tools=[TOOL], tool_choice=choice, named_tool=named)
        (found,) = collected(asked(service, replace(request, parallel_tool_calls=False))).choices
        if choice is ToolChoice.NONE:
            assert found.calls == []
        else:
            (call,) = found.calls
            assert json.loads(call.arguments)["a"] in ("x", "y")
            assert found.finished.reason is FinishReason.TOOL_CALLS


def test_an_answer_is_continued(thinking, thinker):
    service = thinking()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It was"}]
    request = replace(chat(), messages=messages, continue_last=True)
    assert service.render(request).endswith("<|turn>model\nIt was")
    assert said(asked(service, request))[0] != ""
