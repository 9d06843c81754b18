"""Conversations for Python apps, on a backend that answers as it was told to."""

import base64
import json
import threading
from contextlib import suppress

import pytest
from support.paths import PHOTO
from support.scripted_backend import HOLD, ScriptedBackend, said

import mlx_gemma4_assist
from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.server import chat_session, opening
from mlx_gemma4_assist.server.chat_session import ChatSession, ReplyPiece, Span
from mlx_gemma4_assist.server.exchange import Failed, Piece, Progress, RequestError, Started, TokenInfo
from mlx_gemma4_assist.server.service import Service
from mlx_gemma4_assist.text.deltas import AnswerDelta


def read(reply):
    return "".join(piece.text for piece in reply if piece.channel == "answer")


def roles(session):
    return [message["role"] for message in session.messages]


def test_it_is_public():
    assert mlx_gemma4_assist.ChatSession is ChatSession


def test_a_conversation():
    backend = ScriptedBackend([Progress(0, 9), *said("Be", "cause.")], said("No."))
    session = ChatSession(backend, "Be brief.", thinking=False, options={"temperature": 0.5})
    first = session.send("Why?")
    assert list(first) == [ReplyPiece("Be"), ReplyPiece("cause.")]
    assert list(first) == []
    assert (first.answer, first.finish_reason, first.usage.accepted) == ("Because.", "stop", 4)
    assert read(session.send("Really?")) == "No."
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert list(backend.requests[0].messages) == asked
    answered = {"role": "assistant", "content": "Because."}
    assert list(backend.requests[1].messages) == [*asked, answered, {"role": "user", "content": "Really?"}]
    for request in backend.requests:
        assert (request.model, request.stream, request.thinking) == ("google/gemma-4-E2B-it", True, False)
        assert request.options == {"temperature": 0.5}
    assert roles(session) == ["system", "user", "assistant", "user", "assistant"]


def test_thoughts_are_told_apart():
    session = ChatSession(ScriptedBackend(said("Yes.", thought="Hm.")), thinking=True)
    reply = session.send("Well?")
    assert [(piece.channel, piece.text) for piece in reply] == [("thought", "Hm."), ("answer", "Yes.")]
    assert (reply.thought, reply.answer) == ("Hm.", "Yes.")
    assert session.messages[-1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}


def test_nobody_needs_to_listen():
    session = ChatSession(ScriptedBackend(said("One."), said("Two.")))
    session.send("1")
    session.send("2")
    assert [message["content"] for message in session.messages] == ["1", "One.", "2", "Two."]


def test_pictures_are_read_here(monkeypatch):
    """For a backend opens no files."""
    backend = ScriptedBackend(said("A woman."), said("Yes."))
    session = ChatSession(backend)
    monkeypatch.setattr(chat_session, "fetch", lambda url: url.encode())
    session.send(
        "Who?", pictures=[PHOTO, str(PHOTO), "data:image/png;base64,AA==", "https://a.b/c.png?d"], sounds=[b"RIFF"]
    )
    *shown, text = backend.requests[0].messages[0]["content"]
    assert text == {"type": "text", "text": "Who?"}
    assert [part["type"] for part in shown] == ["image", "image", "image", "image", "audio"]
    start, _, data = shown[0]["image"].partition(",")
    assert (start, base64.b64decode(data)) == ("data:image/jpeg;base64", PHOTO.read_bytes())
    assert shown[1] == shown[0]
    assert shown[2]["image"] == "data:image/png;base64,AA=="
    assert shown[3]["image"] == f"data:image/png;base64,{base64.b64encode(b'https://a.b/c.png?d').decode()}"
    assert shown[4]["audio"].startswith("data:application/octet-stream;base64,")
    with pytest.raises(InputError, match=r"cannot read no/such\.png"):
        session.send("Who?", pictures=["no/such.png"])
    assert session.send("", pictures=[PHOTO]).answer == "Yes."


@pytest.mark.parametrize("asked", ["reply", "session"])
def test_cancelling_keeps_what_was_made(asked):
    backend = ScriptedBackend([*said("On", "ce")[:3], HOLD, *said(" upon")[1:]], said("Fine."))
    session = ChatSession(backend)
    reply = session.send("Tell.")
    (reply if asked == "reply" else session).cancel()
    backend.go_on()
    reply.cancel()
    assert read(reply) == "Once"
    assert (reply.finish_reason, backend.tickets[0].cancelled) == ("cancelled", 1)
    assert session.messages[-1] == {"role": "assistant", "content": "Once"}
    assert read(session.send("Go on.")) == "Fine."


def test_cancelling_before_anything_was_made_takes_the_message_back():
    backend = ScriptedBackend([HOLD, *said("x")], said("Fine."))
    session = ChatSession(backend, "Be brief.")
    reply = session.send("Tell.")
    reply.cancel()
    assert list(reply) == []
    assert roles(session) == ["system"]
    assert read(session.send("Again.")) == "Fine."


def test_a_reply_that_is_waited_for_in_another_thread_ends():
    backend = ScriptedBackend([*said("On")[:2], HOLD])
    session = ChatSession(backend)
    reply = session.send("Tell.")
    found = []
    thread = threading.Thread(target=lambda: found.append(read(reply)))
    thread.start()
    session.cancel()
    thread.join(5)
    assert found == ["On"]


def test_threads_may_not_talk_at_once():
    backend = ScriptedBackend([*said("On")[:2], HOLD, *said("ce")[1:]])
    session = ChatSession(backend)
    reply = session.send("Tell.")
    for call in (
        lambda: session.send("And?"),
        session.undo,
        session.reset,
        lambda: session.save("x"),
        lambda: session.load("x"),
    ):
        with pytest.raises(InputError):
            call()
    assert len(backend.requests) == 1
    backend.go_on()
    assert read(reply) == "Once"


def test_only_one_of_many_threads_is_let_in():
    backend = ScriptedBackend([HOLD, *said("x")])
    session = ChatSession(backend)
    outcomes = []

    def talk():
        try:
            outcomes.append(session.send("Tell."))
        except InputError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=talk) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert (len(outcomes), len(refused), len(backend.requests)) == (8, 7, 1)


def test_the_end_of_a_thought_is_asked_for():
    backend = ScriptedBackend([*said(thought="Hm.")[:2], HOLD])
    reply = ChatSession(backend).send("Well?")
    reply.end_thought()
    assert backend.tickets[0].thought_ended == 1


def test_refused_and_failed_messages_leave_nothing():
    error = RequestError(503, "no room", retry_after=3)
    backend = ScriptedBackend(error, [*said("On")[:2], Failed(RequestError(500, "it broke"))], said("Fine."))
    session = ChatSession(backend)
    with pytest.raises(InputError, match="no room"):
        session.send("1")
    reply = session.send("2")
    assert next(reply).text == "On"
    with pytest.raises(InputError, match="it broke"):
        next(reply)
    assert list(reply) == []
    assert (reply.finish_reason, session.messages) == ("error", [])
    assert read(session.send("3")) == "Fine."


def test_undo_and_reset():
    session = ChatSession(ScriptedBackend(said("One."), said("Two.")), "Be brief.")
    session.send("1")
    session.send("2")
    assert session.undo()
    assert [message["content"] for message in session.messages] == ["Be brief.", "1", "One."]
    session.reset()
    assert not session.undo()
    assert roles(session) == ["system"]


def test_saved_and_loaded(tmp_path):
    session = ChatSession(ScriptedBackend(said("A woman.", thought="Hm.")), "Be brief.")
    session.send("Who?", pictures=[PHOTO])
    session.save(tmp_path / "talk.json")
    backend = ScriptedBackend(said("Hopper."))
    other = ChatSession(backend, "Be long.")
    other.load(tmp_path / "talk.json")
    assert other.messages == session.messages
    other.send("Her name?")
    assert list(backend.requests[0].messages) == [*session.messages, {"role": "user", "content": "Her name?"}]
    assert (tmp_path / "talk.json").stat().st_mode & 0o077 == 0


def test_a_conversation_that_has_not_begun_is_saved(tmp_path):
    ChatSession(ScriptedBackend()).save(tmp_path / "talk.json")
    session = ChatSession(ScriptedBackend(), "Be brief.")
    session.load(tmp_path / "talk.json")
    assert session.messages == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid JSON"),
        ("{}", "no conversation"),
        ('{"format": "mlx_gemma4_assist conversation", "version": 2}', "version 2"),
        ('{"format": "mlx_gemma4_assist conversation", "version": 3}', "version 3"),
        ('{"format": "mlx_gemma4_assist conversation", "version": 1}', "without a list"),
        ('{"format": "mlx_gemma4_assist conversation", "version": 1, "messages": [{"role": "x"}]}', "the role 'x'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = tmp_path / "talk.json"
    file.write_text(content)
    session = ChatSession(ScriptedBackend(said("One.")))
    session.send("1")
    with pytest.raises(InputError, match=message):
        session.load(file)
    assert len(session.messages) == 2


@pytest.mark.parametrize("name", ["no/folder/talk.json", "a\0b"])
def test_where_it_cannot_be_written(tmp_path, name):
    with pytest.raises(InputError, match="cannot write"):
        ChatSession(ScriptedBackend()).save(tmp_path / name)
    with pytest.raises(InputError, match="no talk.json|cannot read"):
        ChatSession(ScriptedBackend()).load(tmp_path / name)


def test_halves_of_surrogate_pairs_are_saved(tmp_path):
    session = ChatSession(ScriptedBackend(said("\udfff One")), "\\\ud800")
    session.send("\ud83d")
    session.save(tmp_path / "talk.json")
    other = ChatSession(ScriptedBackend(), "x")
    other.load(tmp_path / "talk.json")
    assert other.messages == session.messages


@pytest.mark.parametrize("picture", [b"x", float], ids=["bytes", "another object"])
def test_what_json_cannot_hold_is_not_saved(tmp_path, picture):
    session = ChatSession(ScriptedBackend())
    session.session.say({"role": "user", "content": [{"type": "image", "image": picture}]})
    with pytest.raises(InputError, match="the conversation cannot be saved"):
        session.save(tmp_path / "talk.json")
    assert list(tmp_path.iterdir()) == []


def test_messages_are_copies():
    session = ChatSession(ScriptedBackend(said("One.")))
    session.send("1")
    session.messages[0]["content"] = "2"
    assert session.messages[0]["content"] == "1"


@pytest.mark.parametrize(
    ("options", "message"), [({"temprature": 1}, "no option 'temprature'"), ({"temperature": -1}, "temperature is -1")]
)
def test_bad_options_are_refused_before_a_model_is_opened(options, message):
    for make in (
        lambda: ChatSession(ScriptedBackend(), options=options),
        lambda: ChatSession.open("no/such", options=options),
    ):
        with pytest.raises(InputError, match=message):
            make()


@pytest.mark.parametrize("options", [5, "temperature", [("temperature", 1)], True])
def test_options_are_a_mapping(options):
    for make in (
        lambda: ChatSession(ScriptedBackend(), options=options),
        lambda: ChatSession.open("no/such", options=options),
    ):
        with pytest.raises(InputError, match="options is .*, expected a mapping"):
            make()


@pytest.mark.parametrize("path", [5, None, ["talk.json"], b"talk.json"])
def test_a_file_is_a_path(path):
    for use in (ChatSession(ScriptedBackend()).save, ChatSession(ScriptedBackend()).load):
        with pytest.raises(InputError, match="the file is .*, expected a path"):
            use(path)


@pytest.mark.parametrize("text", ["", "  ", 5])
def test_bad_messages_are_refused(text):
    backend = ScriptedBackend()
    with pytest.raises(InputError):
        ChatSession(backend).send(text)
    assert not backend.requests


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ("cat.jpg", "'cat.jpg', expected a list"),
        (5, "5, expected a list"),
        ([5], "5, expected a path"),
        ([None], "None, expected a path"),
        (["a\0b"], "cannot read 'a.x00b'"),
        (["~nobody/cat.jpg"], "cannot read .*nobody/cat.jpg"),
    ],
)
def test_what_is_no_picture_is_refused(pictures, message):
    with pytest.raises(InputError, match=message):
        ChatSession(ScriptedBackend()).send("Who?", pictures=pictures)


@pytest.mark.parametrize("thinking", ["yes", 1])
def test_thinking_is_on_or_off(thinking):
    session = ChatSession(ScriptedBackend(), thinking=True)
    with pytest.raises(InputError, match="expected True, False or None"):
        ChatSession(ScriptedBackend(), thinking=thinking)
    with pytest.raises(InputError, match="expected True, False or None"):
        session.thinking = thinking
    assert session.thinking is True


def test_an_interrupt_before_a_message_is_asked_takes_it_back(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    session = ChatSession(ScriptedBackend(said("One.")))
    with monkeypatch.context() as patch:
        patch.setattr(ChatSession, "_request", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.send("1")
    assert session.messages == []
    assert read(session.send("1")) == "One."


def test_whoever_cancels_as_a_reply_ends_can_go_on():
    """The reply is in the conversation then, once, though the backend's thread has not come to that yet."""
    session = ChatSession(ScriptedBackend([*said("On", "ce.")[:3], HOLD], said("Fine.")))
    reply = session.send("Tell.")
    finish = reply._finish
    reply._finish = lambda ended: finish(ended) if threading.current_thread() is threading.main_thread() else None
    thread = threading.Thread(target=lambda: reply._take(said("x")[-1]))
    thread.start()
    thread.join(5)
    session.cancel()
    assert read(session.send("And?")) == "Fine."
    finish(reply)
    assert [message["content"] for message in session.messages] == ["Tell.", "Once.", "And?", "Fine."]
    assert reply.finish_reason == "stop"


def test_several_threads_that_read_one_reply_all_end():
    session = ChatSession(ScriptedBackend([*said("On")[:2], HOLD, *said("ce")[1:]]))
    reply, found = session.send("Tell."), []
    threads = [threading.Thread(target=lambda: found.append(read(reply)), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    session.cancel()
    for thread in threads:
        thread.join(5)
    assert sorted(found) == ["", "", "", "On"]


def test_what_open_made_is_closed(monkeypatch):
    closed = []
    backend = ScriptedBackend([HOLD, *said("x")])
    monkeypatch.setattr(opening, "open_backend", lambda model, assistant: (backend, lambda: closed.append(model)))
    with ChatSession.open("tiny") as session:
        reply = session.send("Tell.")
    assert (closed, reply.finish_reason) == (["tiny"], "cancelled")
    session.close()
    assert closed == ["tiny"]


def test_the_file_is_readable_by_others(tmp_path):
    """Messages are as OpenAI has them."""
    session = ChatSession(ScriptedBackend(said("Früh.")))
    session.send("Wann?")
    session.save(tmp_path / "talk.json")
    content = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert content["messages"] == [{"role": "user", "content": "Wann?"}, {"role": "assistant", "content": "Früh."}]
    assert content["model"] == "google/gemma-4-E2B-it"


def test_the_embedded_pair_talks(tmp_path):
    """With a model in a thread of its own, which ends in order."""
    with ChatSession.open("tiny", options={"max_tokens": 12, "temperature": 0.0}) as session:
        first = session.send("It was a fine morning, and")
        assert len(read(first)) > 10
        assert first.usage.rounds > 0
        again = session.send("And then?")
        assert read(again)
        assert again.finish_reason in ("stop", "length")
        session.save(tmp_path / "talk.json")
        assert roles(session) == ["user", "assistant"] * 2


# Branches, options, and what a reply tells


def contents(session):
    return [message["content"] for message in session.messages]


def test_retry_keeps_the_answer_as_a_branch():
    backend = ScriptedBackend(said("One."), said("Uno."))
    session = ChatSession(backend)
    session.send("1")
    assert session.retry().answer == "Uno."
    assert list(backend.requests[1].messages) == list(backend.requests[0].messages)
    assert contents(session) == ["1", "Uno."]
    session.session.switch(1)
    assert contents(session) == ["1", "One."]
    with pytest.raises(InputError, match="nothing was asked"):
        ChatSession(backend).retry()


def test_edit_keeps_what_followed_as_a_branch():
    backend = ScriptedBackend(said("One."), said("Two."), said("A woman."), said("Zwei."))
    session = ChatSession(backend, "Be brief.")
    session.send("1")
    session.send("2")
    session.edit("Who?", 1, pictures=[b"x"])
    assert [part["type"] for part in session.messages[1]["content"]] == ["image", "text"]
    assert len(session.messages) == 3
    session.session.switch(1)
    session.edit("zwei")
    assert contents(session) == ["Be brief.", "1", "One.", "zwei", "Zwei."]
    with pytest.raises(InputError, match="no turn 3"):
        session.edit("x", 3)

    assert len(backend.requests) == 4


@pytest.mark.parametrize("ends", ["refused", "failed", "cancelled"])
@pytest.mark.parametrize("how", ["retry", "edit"])
def test_what_fails_leaves_the_answer_that_there_was(how, ends):
    error = RequestError(503, "no room")
    script = {"refused": error, "failed": [Failed(error)], "cancelled": [HOLD]}[ends]
    session = ChatSession(ScriptedBackend(said("One."), script, said("Two.")))
    session.send("1")
    before = session.session.saved()
    try:
        reply = session.retry() if how == "retry" else session.edit("x")
        reply.cancel()
    except InputError:
        assert ends == "refused"
    assert session.session.saved() == before
    assert read(session.send("2")) == "Two."


def test_a_cancelled_retry_stays_as_far_as_it_was_made():
    session = ChatSession(ScriptedBackend(said("One."), [*said("Un", "o.")[:2], HOLD]))
    session.send("1")
    session.retry().cancel()
    assert contents(session) == ["1", "Un"]
    assert len(session.session.branches()) == 2


def test_the_last_answer_is_compared_with_one_without_drafts():
    backend = ScriptedBackend(said("One."), said("Two."), said("Two!"), said("Two?"))
    session = ChatSession(backend, options={"temperature": 0.5}, thinking=True)
    session.send("1")
    session.send("2")
    session.set_option("temperature", 0.9)
    before = session.session.saved()
    assert read(session.compare()) == "Two!"
    asked, again = backend.requests[1:3]
    assert list(again.messages) == list(asked.messages)
    assert dict(again.options) == {"temperature": 0.5, "num_assistant_tokens": 0}
    assert again.thinking is True
    assert session.session.saved() == before
    other = ChatSession(backend)  # of which nobody knows how it was answered
    other.load_session(session.session)
    read(other.compare())
    assert list(backend.requests[3].messages) == list(asked.messages)
    assert dict(backend.requests[3].options) == {"num_assistant_tokens": 0}
    with pytest.raises(InputError, match="nothing was answered"):
        ChatSession(backend, "Be brief.").compare()


def test_seeds_are_the_same_for_both():
    backend = ScriptedBackend(said("One."), said("One."), said("Two."), said("Three."))
    session = ChatSession(backend, seeded=True)
    session.send("1")
    session.compare()
    session.send("2")
    session.set_option("seed", 3)
    session.send("3")
    seeds = [request.options["seed"] for request in backend.requests]
    assert seeds[0] == seeds[1] != seeds[2]
    assert seeds[3] == 3
    assert session.options == {"seed": 3}


@pytest.mark.parametrize("script", [RequestError(503, "no room"), [HOLD]], ids=["refused", "cancelled"])
def test_the_seed_of_an_answer_that_never_came_is_not_compared(script):
    backend = ScriptedBackend(said("One."), script, said("One."))
    session = ChatSession(backend, seeded=True)
    session.send("1")
    with suppress(InputError):
        session.retry().cancel()
    session.compare()
    seeds = [request.options["seed"] for request in backend.requests]
    assert seeds[0] == seeds[2] != seeds[1]


def test_how_drafts_are_drawn_is_left_out_where_there_are_none():
    backend = ScriptedBackend(said("One."), said("One."))
    session = ChatSession(backend, options={"temperature": 1.0, "draft_temperature": 0.7, "num_assistant_tokens": 2})
    session.send("1")
    session.compare()
    assert dict(backend.requests[1].options) == {"temperature": 1.0, "num_assistant_tokens": 0}


def test_each_answer_is_compared_with_its_own_seed():
    """And with the options and the system prompt that it had, however one has come to it."""
    backend = ScriptedBackend(*(said(text) for text in ("One.", "Uno.", "Two.", "One!", "Two!", "Uno!")))
    session = ChatSession(backend, "Be brief.", seeded=True, options={"temperature": 1.0})
    session.send("1")
    session.retry()
    session.session.switch(1)
    session.system_prompt = None
    session.set_option("temperature", 0.5)
    session.send("2")
    session.undo()
    session.compare()  # One.
    session.session.switch(1)
    session.compare()  # Two.
    session.session.switch(2)
    session.compare()  # Uno.
    one, uno, two, *again = backend.requests
    for first, second in zip((one, two, uno), again, strict=True):
        assert dict(second.options) == {**first.options, "num_assistant_tokens": 0}
        assert list(second.messages) == list(first.messages)


def test_what_is_set_counts_from_the_next_message_on():
    backend = ScriptedBackend(said("One."), said("Two."))
    session = ChatSession(backend, "Be brief.", options={"temperature": 0.5, "seed": 1})
    session.send("1")
    session.thinking, session.thinking_budget, session.system_prompt = True, 7, "Be long."
    session.set_option("temperature", 0.7)
    session.set_option("seed", None)
    session.options["temperature"] = 3
    session.send("2")
    first, second = backend.requests
    assert (first.thinking, first.thinking_budget, first.messages[0]["content"]) == (None, None, "Be brief.")
    assert (second.thinking, second.thinking_budget, second.messages[0]["content"]) == (True, 7, "Be long.")
    assert dict(second.options) == {"temperature": 0.7}
    assert (session.thinking, session.thinking_budget, session.system_prompt) == (True, 7, "Be long.")


def test_what_cannot_be_set():
    session = ChatSession(ScriptedBackend())
    for name, value, message in (("heat", 1, "no option"), ("heat", None, "no option"), ("temperature", -1, "is -1")):
        with pytest.raises(InputError, match=message):
            session.set_option(name, value)
    with pytest.raises(InputError, match="thinking_budget"):
        session.thinking_budget = -1
    assert session.options == {}


def test_a_reply_tells_how_far_it_has_come():
    tokens = (TokenInfo(5, "On", 1), TokenInfo(6, "ce"))
    script = [Progress(2, 9), HOLD, Started(9, 4), Piece(0, (AnswerDelta("Once"),), tokens), HOLD, *said()[1:]]
    backend = ScriptedBackend(script)
    reply = ChatSession(backend).send("Tell.")
    assert (reply.progress, reply.prompt_tokens, reply.cached_tokens, reply.token_ids) == ((2, 9), 0, 0, ())
    assert reply.next_piece(0.01) is None
    backend.go_on()
    assert (reply.prompt_tokens, reply.cached_tokens, reply.token_ids) == (9, 4, (5, 6))
    piece = reply.next_piece(0)
    assert (piece.text, piece.spans) == ("Once", (Span("On", 1), Span("ce", 0)))
    assert (reply.next_piece(0), reply.finished) == (None, None)
    backend.go_on()
    with pytest.raises(StopIteration):
        reply.next_piece(5)
    assert reply.finished.usage == reply.usage
    assert reply.usage.rounds == 3


def test_context_used():
    session = ChatSession(ScriptedBackend(said("One.")))
    assert session.context_used() == 0
    session.send("1")
    assert session.context_used() == 1


def test_nothing_is_answered_by_a_closed_session(tmp_path):
    session = ChatSession(ScriptedBackend(said("One.")))
    session.send("1")
    session.close()
    for call in (lambda: session.send("2"), session.retry, lambda: session.edit("2"), session.compare):
        with pytest.raises(InputError, match="the session is closed"):
            call()
    session.save(tmp_path / "talk.json")
    assert contents(session) == ["1", "One."]


def test_branches_are_saved(tmp_path):
    session = ChatSession(ScriptedBackend(said("One."), said("Uno.")))
    session.send("1")
    session.retry()
    session.save(tmp_path / "talk.json")
    other = ChatSession(ScriptedBackend())
    other.load(tmp_path / "talk.json")
    assert other.session.branches() == session.session.branches()
    other.session.switch(1)
    assert contents(other) == ["1", "One."]


def test_an_interrupt_while_a_message_is_handed_over_leaves_nothing(monkeypatch):
    backend = ScriptedBackend(said("One."))
    session = ChatSession(backend)

    def interrupted(request, listener):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backend, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.send("1")
    assert session.messages == []
    assert read(session.send("1")) == "One."


def test_drafts_of_the_embedded_pair_are_told():
    """As many tokens as were accepted are drafts, each piece in the order of its round."""
    with ChatSession.open("tiny", options={"max_tokens": 60, "temperature": 0.0, "num_assistant_tokens": 3}) as session:
        reply = session.send("It was a fine morning, and")
        pieces = [piece for piece in reply if piece.text]
    places = {span.draft for piece in pieces for span in piece.spans}
    assert {0, 1} <= places <= {0, 1, 2, 3}
    assert reply.finished.usage.accepted > 0
    for piece in pieces:
        drafts = [span.draft for span in piece.spans if span.draft]
        assert drafts == sorted(drafts)
        assert "".join(span.text for span in piece.spans) == piece.text
    assert len(reply.token_ids) == reply.usage.completion_tokens
    assert session.session.written == [(reply.answer, reply.token_ids)]


def test_an_answer_that_is_drawn_is_the_same_without_drafts(monkeypatch):
    monkeypatch.setattr(chat_session, "randbits", lambda bits: 3)  # of which the answer is long enough for drafts
    service = Service(Checkpoint.open("tiny"))
    try:
        options = {"max_tokens": 40, "temperature": 1.0, "num_assistant_tokens": 2}
        session = ChatSession(service, seeded=True, options=options)
        first = session.send("It was a fine morning, and")
        answer, plain = read(first), session.compare()
        assert read(plain) == answer
        assert (first.usage.drafted > 0, plain.usage.drafted) == (True, 0)
        assert session.context_used() > first.prompt_tokens
        assert contents(session) == ["It was a fine morning, and", answer]
    finally:
        service.close()
