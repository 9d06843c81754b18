"""A conversation as a tree: what was said, taken back, answered again, edited; and all of it in files."""

import json
import random
from copy import deepcopy

import pytest

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.engine.session import FORMAT, Branch, Session


def user(text):
    return {"role": "user", "content": text}


def model(text, **more):
    return {"role": "assistant", "content": text, **more}


def talk(*texts, system=None):
    """User and model in turns."""
    session = Session(system)
    for place, text in enumerate(texts):
        (session.answer if place % 2 else session.say)((model if place % 2 else user)(text))
    return session


def texts(session):
    return [message["content"] for message in session.messages]


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
LOOP = [
    user("Look."),
    model("", tool_calls=[CALL], reasoning_content="hm"),
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    model("It is sunny.", reasoning_content="so"),
]


def with_a_loop():
    session = Session("Be brief.")
    for message in LOOP:
        (session.answer if message["role"] == "assistant" else session.say)(message)
    return session


def test_what_the_model_sees():
    session = talk("1", "One.", system="Be brief.")
    assert session.messages == [{"role": "system", "content": "Be brief."}, user("1"), model("One.")]
    session.system_prompt = None
    assert session.messages == [user("1"), model("One.")]
    assert Session().messages == []


def test_calls_answers_and_thoughts_stay():
    session = with_a_loop()
    assert session.messages[1:] == LOOP
    assert session.turns == 1
    session.say(user("And now?"))
    assert session.turns == 1
    session.answer(model("Still."))
    assert session.turns == 2
    again = Session.restored(json.loads(json.dumps(session.saved())), "x")
    assert again.messages == session.messages


def test_messages_are_copies():
    message = user([{"type": "text", "text": "1"}])
    session = Session()
    session.say(message)
    message["content"][0]["text"] = "2"
    session.messages[0]["content"][0]["text"] = "3"
    assert session.messages == [user([{"type": "text", "text": "1"}])]


def test_taking_back_leaves_nothing():
    session = talk("1", "One.", "2")
    session.take_back()
    assert texts(session) == ["1", "One."]
    assert len(session.branches()) == 1
    for _ in range(3):
        session.take_back()
    assert texts(session) == []


def test_undo_keeps_a_branch():
    session = talk("1", "One.", "2", "Two.", "3")
    assert session.undo() == user("3")
    assert session.undo() == user("2")
    assert texts(session) == ["1", "One."]
    assert session.branches() == [Branch(1, "3", 5, False), Branch(2, "1", 2, True)]
    session.say(user("4"))
    session.switch(1)
    assert texts(session) == ["1", "One.", "2", "Two.", "3"]
    session.switch(2)
    assert texts(session) == ["1", "One.", "4"]
    assert session.undo() == user("4")
    assert session.undo() == user("1")
    assert session.undo() is None
    assert texts(session) == []


def test_undo_takes_a_tool_loop_as_one():
    session = with_a_loop()
    assert session.undo() == LOOP[0]
    assert texts(session) == ["Be brief."]


def test_a_branch_without_messages_of_its_own_is_gone_once_it_is_left():
    session = talk("1", "One.")
    session.undo()
    session.switch(1)
    assert session.branches() == [Branch(1, "1", 2, True)]
    session.switch(1)
    assert len(session.branches()) == 1


def test_retry():
    session = talk("1", "One.", "2", "Two.")
    session.retry()
    assert texts(session) == ["1", "One.", "2"]
    session.retry()
    session.answer(model("Deux."))
    assert [(branch.number, branch.messages) for branch in session.branches()] == [(1, 4), (2, 4)]
    session.switch(1)
    assert texts(session)[-1] == "Two."
    with pytest.raises(InputError, match="nothing was asked"):
        Session("Be brief.").retry()


def test_edit():
    session = talk("1", "One.", "2", "Two.", "3", "Three.")
    session.edit(user("drei"))
    assert texts(session) == ["1", "One.", "2", "Two.", "drei"]
    session.edit(user("eins"), 1)
    session.answer(model("Uno."))
    assert texts(session) == ["eins", "Uno."]
    assert [branch.title for branch in session.branches()] == ["3", "drei", "eins"]
    for turn in (0, 2, -1):
        with pytest.raises(InputError, match="no turn"):
            session.edit(user("x"), turn)
    with pytest.raises(InputError, match="the turn is '1', expected a number"):
        session.edit(user("x"), "1")
    with pytest.raises(InputError, match="only messages of the user"):
        session.edit(model("x"))
    with pytest.raises(InputError, match="nothing was asked"):
        Session().edit(user("x"))
    assert texts(session) == ["eins", "Uno."]


def test_reset():
    session = talk("1", "One.", system="Be brief.")
    session.undo()
    session.reset()
    assert session.branches() == [Branch(1, "", 0, True)]
    assert texts(session) == ["Be brief."]
    assert session.turns == 0


def test_titles():
    session = talk(f" {'long ' * 30}\nsecond line")
    assert session.branches()[0].title == f"{'long ' * 11}lo..."
    shown = Session()
    shown.say(user([{"type": "image", "image": "data:,"}, {"type": "audio", "audio": "data:,"}]))
    assert shown.branches()[0].title == "[image] [audio]"


def test_what_is_refused():
    session = talk("1", "One.")
    for wrong in (model("x"), {"role": "pope", "content": "x"}, {"role": "user"}, {"role": "user", "content": 5}):
        with pytest.raises(InputError):
            session.say(wrong)
    for wrong in (user("x"), {"role": "assistant"}):
        with pytest.raises(InputError):
            session.answer(wrong)
    with pytest.raises(InputError, match="there is no branch 7: there are 1"):
        session.switch(7)
    for number in ([1], "1", None, True):
        with pytest.raises(InputError, match="the branch is .*, expected a number"):
            session.switch(number)
    assert texts(session) == ["1", "One."]


def test_going_back_to_a_mark():
    session = talk("1", "One.")
    mark, before = session.mark(), session.saved()
    session.retry()
    session.answer(model("Uno."))
    session.edit(user("x"))
    session.go_back(mark)
    assert session.saved() == before
    session.undo()
    assert [branch.number for branch in session.branches()] == [1, 2]


# Against a naive twin: every branch as a list of its own


class Twin:
    def __init__(self):
        self.branches, self.current, self.last = {1: []}, 1, 1

    @property
    def path(self):
        return self.branches[self.current]

    def leave(self, path):
        others = [other for number, other in self.branches.items() if number != self.current]
        if not any(other[: len(self.path)] == self.path for other in others):
            self.last += 1
            self.current = self.last
        self.branches[self.current] = path

    def asked(self):
        return [i for i, message in enumerate(self.path) if message["role"] == "user"]


def step(draw, session, twin, count):
    kind, asked = draw.choice(("say", "answer", "undo", "retry", "edit", "switch", "back")), twin.asked()
    message = user(str(count))  # never the same twice
    if kind == "say":
        session.say(message)
        twin.branches[twin.current] = [*twin.path, message]
    elif kind == "answer":
        session.answer(model(str(count)))
        twin.branches[twin.current] = [*twin.path, model(str(count))]
    elif kind == "back":
        session.take_back()
        twin.branches[twin.current] = twin.path[:-1]
    elif kind == "undo" and asked:
        assert session.undo() == twin.path[asked[-1]]
        twin.leave(twin.path[: asked[-1]])
    elif kind == "retry" and asked:
        session.retry()
        if len(twin.path) > asked[-1] + 1:
            twin.leave(twin.path[: asked[-1] + 1])
    elif kind == "edit" and asked:
        turn = draw.randint(1, len(asked))
        session.edit(message, turn)
        twin.leave(twin.path[: asked[turn - 1]])
        twin.branches[twin.current] = [*twin.path, message]
    elif kind == "switch":
        number, path = draw.choice(list(twin.branches)), twin.path
        others = [other for key, other in twin.branches.items() if key != twin.current]
        if number != twin.current and any(other[: len(path)] == path for other in others):
            del twin.branches[twin.current]
        session.switch(number)
        twin.current = number


@pytest.mark.parametrize("seed", range(20))
def test_random_sessions_are_as_lists(seed):
    """Also through a file, in the middle and at the end."""
    draw, session, twin = random.Random(seed), Session(), Twin()
    for count in range(60):
        step(draw, session, twin, count)
        assert session.messages == twin.path
        found = [(branch.number, branch.messages, branch.current) for branch in session.branches()]
        assert found == [(n, len(path), n == twin.current) for n, path in sorted(twin.branches.items())]
        if count in (30, 59):
            session = Session.restored(json.loads(json.dumps(session.saved())), "x")
            twin.last = max(twin.branches)
    for number, path in sorted(twin.branches.items()):
        other = Session.restored(session.saved(), "x")
        other.switch(number)
        assert other.messages == path


# Files


def test_a_picture_that_branches_share_is_written_once():
    session = Session("Be brief.")
    session.say(user([{"type": "image", "image": "data:image/png;base64,abc"}, {"type": "text", "text": "Who?"}]))
    session.answer(model("A woman."))
    session.retry()
    session.answer(model("A man."))
    session.edit(user("What?"))
    session.switch(1)
    assert json.dumps(session.saved()).count("base64,abc") == 1
    assert Session.restored(session.saved(), "x").branches() == session.branches()


def test_tokens_of_answers_are_kept_with_them():
    session = Session("Be brief.")
    session.say(user("1"))
    session.answer(model("One."), (5, 7))
    session.retry()
    session.answer(model("Uno."), [6])
    session.say(user("2"))
    session.answer(model("Two."))
    assert session.written == [("Uno.", (6,))]
    again = Session.restored(json.loads(json.dumps(session.saved())), "x")
    assert again.written == session.written
    again.switch(1)
    assert again.written == [("One.", (5, 7))]
    assert "tokens" not in json.dumps(again.messages)


def test_tokens_of_what_has_no_text():
    """Only damaged files have any."""
    session = Session()
    session.say(user("1"))
    for content in ({}, {"content": None}, {"content": [{"type": "text", "text": "One."}]}):
        session.answer({"role": "assistant", "tool_calls": [{}], **content}, [5])
    assert session.written == []


def test_files_of_version_1_are_read():
    messages = [{"role": "system", "content": "Be brief."}, user("1"), model("One.")]
    content = {"format": FORMAT, "version": 1, "model": "m", "messages": messages}
    session = Session.restored(content, "x")
    assert (session.system_prompt, session.messages, session.turns) == ("Be brief.", messages, 1)
    assert Session.restored({"format": FORMAT, "version": 1, "messages": []}, "x").messages == []


def test_a_first_message_of_parts_stays():
    messages = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, user("1")]
    session = Session.restored({"format": FORMAT, "version": 1, "messages": messages}, "x")
    assert (session.system_prompt, session.messages) == (None, messages)


def damaged():
    session = talk("1", "One.")
    session.edit(user("2"))
    good = session.saved()
    yield [], "no conversation"
    yield {"format": "x"}, "no conversation"
    yield good | {"version": 3}, "version 3, expected 2"
    yield good | {"messages": None}, "without a list of messages"
    yield good | {"messages": [{"role": "x"}]}, "x: message 1 has the role 'x'"
    yield good | {"branch": "1"}, "'1' in the place of a number"
    yield good | {"branches": {}}, "without a list of branches"
    yield good | {"branches": [5]}, "a branch that is none"
    for change in ({"number": 2}, {"like": 9}, {"shared": 9}):
        yield good | {"branches": [good["branches"][0] | change]}, "does not belong"
    for change in ({"number": None}, {"like": True}, {"shared": -1}):
        yield good | {"branches": [good["branches"][0] | change]}, "in the place of a number"
    yield good | {"branches": [good["branches"][0] | {"messages": 5}]}, "without a list of messages"
    for tokens in ({"9": "5"}, {0: "5"}, "5", {"x": "5"}):
        yield good | {"tokens": tokens}, "tokens of messages that it does not have"
    for tokens in ({"0": "5 x"}, {"0": [5]}, {"0": "-5"}, {"0": "99999999999"}, {"0": "9" * 5000}):
        yield good | {"tokens": tokens}, "with tokens of message 0 that are none"


@pytest.mark.parametrize(("content", "message"), list(damaged()))
def test_damaged_files(content, message):
    with pytest.raises(InputError, match=message):
        Session.restored(deepcopy(content), "x")
