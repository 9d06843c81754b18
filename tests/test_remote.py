"""A model behind a server: this package's own, and a stranger's that knows no more than OpenAI's protocol."""

import base64
import json
import queue
import socket
import threading
from dataclasses import replace

import pytest
from support.paths import PHOTO
from support.running import Stranger, running
from support.serving import KEY, MODEL, USAGE, ScriptedBackend, finished, until

from mlx_gemma4_assist import ChatSession, InputError
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.server.exchange import (
    ChatRequest,
    Failed,
    Finished,
    FinishReason,
    Piece,
    Progress,
    RequestError,
    Started,
    TextRequest,
    TokenInfo,
    bad_request,
    collected,
)
from mlx_gemma4_assist.server.remote import RemoteBackend
from mlx_gemma4_assist.server.service import Service
from mlx_gemma4_assist.server.settings import ServerSettings
from mlx_gemma4_assist.text.deltas import AnswerDelta, ThoughtDelta

HI = [{"role": "user", "content": "Hi"}]
DONE = "data: [DONE]\n\n"


def heard(backend, request):
    """All events of a request."""
    events, found = queue.Queue(), []
    backend.submit(request, events.put)
    while not found or not isinstance(found[-1], Finished | Failed):
        found.append(events.get(timeout=20))
    return found


def asked(backend, messages=HI, **options):
    return heard(backend, ChatRequest(model="", messages=messages, stream=True, **options))


def chunk(delta=None, reason=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices, **more}


def says(*chunks):
    """A stranger's answer."""

    def chat(body, write):
        write(*chunks)

    return chat


# This package's server


def thinking(request, ticket):
    yield Progress(0, 10)
    yield Progress(6, 10)
    yield Started(10, 4)
    yield Piece(0, (ThoughtDelta("Hm."),), (TokenInfo(5, "Hm."),))
    yield Piece(0, (AnswerDelta("It is"),), (TokenInfo(6, "It"), TokenInfo(7, " is", 1)))
    yield Piece(0, (AnswerDelta(" so."),), (TokenInfo(8, " so.", 2),))
    yield finished()


def test_own_servers_tell_everything():
    backend = ScriptedBackend(thinking, replace(MODEL, thinking=True))
    with running(backend) as url:
        remote = RemoteBackend.open(url)
        events = asked(remote, options={"top_k": 5, "num_assistant_tokens": 2}, thinking=True, thinking_budget=9)
    assert [event for event in events if isinstance(event, Progress)][-1] == Progress(6, 10)
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [piece.deltas for piece in pieces] == [
        (ThoughtDelta("Hm."),),
        (AnswerDelta("It is"),),
        (AnswerDelta(" so."),),
    ]
    told = [(token.text, token.draft) for piece in pieces for token in piece.tokens]
    assert told == [("Hm.", 0), ("It", 0), (" is", 1), (" so.", 2)]
    answer = collected(events)
    assert (answer.prompt_tokens, answer.cached_tokens) == (10, 4)
    last = events[-1]
    assert (last.reason, last.usage) == (FinishReason.STOP, USAGE)
    assert (last.queued, last.prompt, last.generation) == pytest.approx((0.1, 0.2, 0.3))
    (request,) = backend.requests
    assert (request.thinking, request.thinking_budget) == (True, 9)
    assert request.options == {"top_k": 5, "num_assistant_tokens": 2}
    assert list(request.messages) == HI


def test_a_model_as_its_server_lists_it():
    with running(ScriptedBackend()) as url:
        for name in (None, MODEL.id, "pet"):
            model = RemoteBackend.open(url.removeprefix("http://"), model=name).model
            assert (model.id, model.context, model.thinking) == (MODEL.id, MODEL.context, MODEL.thinking)
        with pytest.raises(InputError, match=f"has no model 'other', but {MODEL.id}"):
            RemoteBackend.open(f"{url}/v1", model="other")


def test_what_is_counted_and_looked_up():
    with running(ScriptedBackend()) as url:
        remote = RemoteBackend.open(url)
        assert list(remote.tokens(ChatRequest(model="", messages=HI))) == [2, 3]
        assert list(remote.tokenize("ab")) == [97, 98]
        assert remote.detokenize([97, 98]) == "ab"
        assert remote.render(ChatRequest(model="", messages=HI)) == "rendered"
        assert (remote.health().status, remote.health().active_memory) == ("ok", 1000)
        with pytest.raises(RequestError, match="beyond the vocabulary"):
            remote.detokenize([999])
        with pytest.raises(RequestError, match="chats only"):
            remote.submit(TextRequest(model="", prompts=["a"]), print)


def test_cancelling_reaches_the_server():
    backend = ScriptedBackend(lambda request, ticket: until(ticket, Progress(0, 9), Started(9, 0)))
    with running(backend) as url:
        reply = ChatSession(RemoteBackend.open(url)).send("Go on.")
        assert next(reply).text == "again "
        reply.cancel()
        assert backend.tickets[0].cancelled.wait(10)
        assert reply.finish_reason == "cancelled"


def test_cancelling_reaches_a_server_that_says_nothing():
    """No byte comes that would wake who reads."""
    silent, cancelled = threading.Event(), threading.Event()

    def script(request, ticket):
        yield Progress(0, 9)
        silent.set()
        if ticket.cancelled.wait(20):
            cancelled.set()

    with running(ScriptedBackend(script), ServerSettings(port=0, life=60.0)) as url:
        ticket = RemoteBackend.open(url).submit(ChatRequest(model="", messages=HI, stream=True), lambda event: None)
        assert silent.wait(10)
        ticket.cancel()
        assert cancelled.wait(10)


def test_a_thought_is_ended_by_its_server():
    def endless(request, ticket):
        yield Started(3, 0)
        yield Piece(0, (ThoughtDelta("Hm."),), (TokenInfo(1, "Hm."),))
        ticket.thought_ended.wait(10)
        yield Piece(0, (AnswerDelta("Yes."),), (TokenInfo(2, "Yes."),))
        yield finished()

    with running(ScriptedBackend(endless)) as url:
        reply = ChatSession(RemoteBackend.open(url), thinking=True).send("Well?")
        assert next(reply).channel == "thought"
        reply.end_thought()
        assert next(reply).text == "Yes."
        assert list(reply) == []


def test_pictures_and_sounds_arrive():
    backend = ScriptedBackend(model=replace(MODEL, pictures=True, sound=True))
    with running(backend) as url:
        session = ChatSession(RemoteBackend.open(url))
        list(session.send("Who?", pictures=[PHOTO], sounds=["data:audio/x-wav;base64,UklGRg=="]))
    picture, sound, text = backend.requests[0].messages[0]["content"]
    assert base64.b64decode(picture["url"].partition(",")[2]) == PHOTO.read_bytes()
    assert sound == {"type": "audio", "url": "data:audio/wav;base64,UklGRg=="}
    assert text == {"type": "text", "text": "Who?"}


def test_keys():
    with pytest.raises(InputError, match="api_key has characters in it that no key can have"):
        RemoteBackend.open("http://127.0.0.1:1", "a\nb")
    with running(ScriptedBackend(), ServerSettings(port=0, api_key=KEY)) as url:
        with pytest.raises(InputError, match="asks for a key: --api-key, or OPENAI_API_KEY"):
            RemoteBackend.open(url)
        with pytest.raises(InputError, match="does not take this key"):
            RemoteBackend.open(url, "wrong")
        assert collected(asked(RemoteBackend.open(url, f"{KEY}\n"))).choices[0].answer == "Hello, world"


def test_what_a_server_refuses_is_told_in_its_words():
    def refuse(request, ticket):
        raise bad_request("the prompt is too long", "messages")
        yield

    with running(ScriptedBackend(refuse)) as url:
        session = ChatSession(RemoteBackend.open(url))
        with pytest.raises(InputError, match="^the prompt is too long$"):
            list(session.send("Hi"))
        assert session.messages == []


def test_the_embedded_pair_says_the_same_behind_a_server():
    """Two turns, of which the second's prompt is mostly known to the server."""
    service = Service(Checkpoint.open("tiny"))
    options = {"max_tokens": 16, "num_assistant_tokens": 2}
    try:
        with running(service) as url:
            there, here = (ChatSession(each, options=options) for each in (RemoteBackend.open(url), service))
            for message in ("It was a fine morning, and", "What did she say?"):
                texts, replies = [], [session.send(message) for session in (there, here)]
                for reply in replies:
                    texts.append("".join(piece.text for piece in reply))
                assert texts[0] == texts[1]
                assert len({reply.usage.completion_tokens for reply in replies}) == 1
            assert replies[0].usage.drafted > 0
            assert replies[0].usage.accepted_at
            assert there.messages == here.messages
    finally:
        service.close()


# A stranger's server


def test_strangers_are_asked_for_no_more_than_they_know():
    chunks = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Yes"}), chunk({"content": "."})]
    with Stranger(says(*chunks, chunk({}, "stop"), DONE), [{"id": "a"}, {"id": "b"}]) as stranger:
        remote = RemoteBackend.open(f"{stranger.url}/v1/", "key", "b")
        answer = collected(
            asked(remote, options={"temperature": 0.5, "stop": "x", "json_schema": '{"type": "object"}'})
        )
        assert stranger.keys == ["Bearer key"] * 2
    (body,) = stranger.asked
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}
    assert body == {
        "model": "b",
        "messages": HI,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "stop": ["x"],
        "response_format": form,
    }
    (choice,) = answer.choices
    assert (choice.answer, choice.finished.reason) == ("Yes.", FinishReason.STOP)
    assert choice.finished.usage.completion_tokens == 2  # as many as there were pieces
    assert choice.finished.generation >= 0


@pytest.mark.parametrize("typed", ["5=1", ["5=1"], '{"5": 1}', {5: 1.0}])
def test_biases_are_sent_however_they_were_typed(typed):
    with Stranger(says(chunk({"content": "Yes"}), chunk({}, "stop"), DONE)) as stranger:
        collected(asked(RemoteBackend.open(stranger.url), options={"logit_bias": typed}))
    assert stranger.asked[0]["logit_bias"] == {"5": 1.0}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_and_figures_of_strangers(name):
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    usage["prompt_tokens_details"] = {"cached_tokens": 3}
    timings = {"prompt_ms": 200.0, "predicted_ms": 500.0, "draft_n": 4, "draft_n_accepted": 2}
    chunks = [
        chunk({name: "Hm."}),
        chunk({"content": "Yes."}),
        chunk({}, "length"),
        chunk(usage=usage, timings=timings),
    ]
    with Stranger(says(": a sign of life\n\n", *chunks, DONE)) as stranger:
        remote = RemoteBackend.open(stranger.url)
        answer = collected(asked(remote, thinking=True))
        assert stranger.asked[0]["chat_template_kwargs"] == {"enable_thinking": True}
        assert len(remote.tokens(ChatRequest(model="", messages=HI))) == 12  # as the last answer told
    (choice,) = answer.choices
    assert (choice.thought, choice.answer) == ("Hm.", "Yes.")
    assert (answer.prompt_tokens, answer.cached_tokens) == (7, 3)
    ended = choice.finished
    assert (ended.reason, ended.prompt, ended.generation) == (FinishReason.LENGTH, 0.2, 0.5)
    assert (ended.usage.completion_tokens, ended.usage.drafted, ended.usage.accepted) == (5, 4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"num_assistant_tokens": 0}}, "not known to heed num_assistant_tokens"),
        ({"options": {"lark": "start: 'a'"}}, "not known to heed lark"),
        ({"options": {"kv_bits": 4}}, "kv_bits is for a model in this process"),
        ({"thinking": True, "thinking_budget": 5}, "not known to heed a budget of thoughts"),
    ],
)
def test_what_no_stranger_heeds_is_refused(options, message):
    with Stranger(says()) as stranger, pytest.raises(RequestError, match=message):
        asked(RemoteBackend.open(stranger.url), **options)
    assert stranger.asked == []


def answers(status, content):
    return lambda body, write: (status, content)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (answers(404, {"error": {"message": "no such model"}}), "^no such model$"),
        (answers(400, {"error": "too long"}), "^too long$"),
        (answers(422, {"detail": "a field is wrong"}), "^a field is wrong$"),
        (answers(500, {"error": {"message": "broken"}}), "answers with 500: broken"),
        (answers(503, b"<html>"), "answers with 503$"),
        (answers(200, b"<html>Welcome"), "no JSON: is it an OpenAI server"),
        (answers(302, b""), "answers with 302"),
        (says("data: [1]\n\n"), "no JSON"),
        (says(chunk({"content": "Y"}), {"error": {"message": "it broke"}}), "^it broke$"),
        (says(chunk({"content": "Y"})), "broke off in the answer's middle"),
        (says({"choices": [5]}), "otherwise than OpenAI's protocol"),
        (says(chunk({"content": "Y"}, drafts=[["a"]])), "otherwise than OpenAI's protocol"),
    ],
)
def test_errors_are_one_sentence(chat, message):
    with Stranger(chat) as stranger:
        session = ChatSession(RemoteBackend.open(stranger.url))
        with pytest.raises(InputError, match=message) as caught:
            list(session.send("Hi"))
        assert "\n" not in str(caught.value)
        assert session.messages == []


def test_where_nobody_answers():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=f"nobody answers at http://127.0.0.1:{port}: is a server running there"):
        RemoteBackend.open(f"127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["", "ftp://a.b", "http://", "http://a:0", "http://a:x", "http://[::1", "a..b"])
def test_what_is_no_address(url):
    with pytest.raises(InputError, match="expected an address such as"):
        RemoteBackend.open(url)


@pytest.mark.parametrize(
    "listed", [b"<html>", {"data": []}, {"models": []}, {"data": ["a"]}, {"data": [{"name": "a"}]}]
)
def test_what_lists_no_models(listed):
    with Stranger(says()) as stranger:
        stranger.listed = listed
        with pytest.raises(InputError, match="lists no models|no JSON"):
            RemoteBackend.open(stranger.url)


def test_a_stranger_is_told_when_nobody_reads():
    said, go = threading.Event(), threading.Event()

    def chat(body, write):
        write(chunk({"content": "a"}))
        said.set()
        go.wait(10)
        while True:
            write(chunk({"content": "a" * 1000}))

    with Stranger(chat) as stranger:
        reply = ChatSession(RemoteBackend.open(stranger.url)).send("Hi")
        assert said.wait(10)
        assert next(reply).text == "a"
        reply.cancel()
        go.set()
        assert stranger.gone.wait(10)


def test_requests_are_json():
    """Whatever a message holds."""
    with Stranger(says(chunk({"content": "a"}), chunk({}, "stop"), DONE)) as stranger:
        session = ChatSession(RemoteBackend.open(stranger.url))
        list(session.send('é "\n 🐈'))
        assert json.dumps(stranger.asked[0]["messages"][0]["content"]) == json.dumps('é "\n 🐈')
