"""Saved chats: whole or not there, whoever saves at once and whatever ends a process; and how chats leave it."""

import base64
import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from mlx_gemma4_assist.engine.session import Session
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.files import held
from mlx_gemma4_assist.server import openai_messages
from mlx_gemma4_assist.server.exchange import Model
from mlx_gemma4_assist.terminal import clipboard, store_media, store_names
from mlx_gemma4_assist.terminal import store as store_module
from mlx_gemma4_assist.terminal.export import as_json, as_markdown, export
from mlx_gemma4_assist.terminal.store import Store, data_folder

PICTURE, SOUND, VIDEO = b"\x89PNG" + bytes(range(256)), b"RIFF" * 9, b"\0\0\0 ftyp" * 5
MODEL = "google/gemma-4-E2B-it"
KINDS = {PICTURE: ("image", "image/png"), SOUND: ("audio", "audio/wav"), VIDEO: ("video", "video/mp4")}


def url(content):
    return f"data:{KINDS[content][1]};base64,{base64.b64encode(content).decode()}"


def user(text, *shown):
    parts = [{"type": KINDS[each][0], "url": url(each)} for each in shown]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def talk(*texts, shown=(), system=None):
    """A chat of these messages, each answered; the first shows something."""
    session = Session(system)
    for text in texts:
        session.say(user(text, *shown))
        session.answer({"role": "assistant", "content": f"{text}!"})
        shown = ()
    return session


def saved(store, *texts, shown=(), name=None):
    entry = store.begin(MODEL)
    if name is not None:
        entry.rename(name)
    entry.save(talk(*texts, shown=shown))
    return entry


def names(store):
    return sorted(chat.name for chat in store.list())


def media(store):
    return sorted(path.name for path in (store.folder / "media").iterdir())


def digest(content):
    return sha256(content).hexdigest()


@pytest.fixture
def notes():
    return []


@pytest.fixture
def store(tmp_path, notes):
    return Store(tmp_path / "data", notes=notes.append)


@pytest.fixture
def other(store, notes):
    """Another process's."""
    return Store(store.folder, notes=notes.append)


@pytest.mark.parametrize(
    ("environ", "platform", "folder"),
    [
        ({"HOME": "/h"}, "linux", "/h/.local/share/mlx_gemma4_assist"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x"}, "linux", "/x/mlx_gemma4_assist"),
        ({"HOME": "/h", "XDG_DATA_HOME": "x"}, "linux", "/h/.local/share/mlx_gemma4_assist"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x"}, "darwin", "/h/Library/Application Support/mlx_gemma4_assist"),
        ({"HOME": "/h", "MLX_GEMMA4_ASSIST_DATA": "/d"}, "darwin", "/d"),
    ],
)
def test_where_chats_are(environ, platform, folder):
    assert data_folder(environ, platform) == Path(folder)


def test_a_chat_comes_back(store, notes):
    session = talk("Why is the sky blue?", "Why?", system="Be brief.")
    message = user("Is it?", PICTURE, SOUND, VIDEO)
    message["content"][0] = {"type": "image", "image": url(PICTURE)}  # as user_message has it
    session.edit(message)
    session.answer({"role": "assistant", "content": "Früh \N{CAT}", "reasoning_content": "Hm."})
    entry = store.begin(MODEL)
    entry.save(session)
    again, read = store.open()
    assert (again.name, again.model) == (entry.name, MODEL)
    assert (read.messages, read.system_prompt, read.turns) == (session.messages, "Be brief.", 2)
    assert [branch.title for branch in read.branches()] == [branch.title for branch in session.branches()]
    assert media(store) == sorted(map(digest, (PICTURE, SOUND, VIDEO)))
    assert not [text for text in (store.folder / "sessions").iterdir() if "base64" in text.read_text()]
    assert notes == []


def test_nothing_is_written_before_the_first_save(store):
    store.begin(MODEL).save(Session("Be brief."))
    assert not store.folder.exists()
    assert store.list() == []
    with pytest.raises(InputError, match="no saved chat yet"):
        store.open()


def test_what_the_list_tells(store, monkeypatch):
    before = time.time()
    first, second = saved(store, "One\n\033[31mred", "And?"), saved(store, "Two " * 40, name="Two")
    two, one = store.list()
    assert (one.name, one.title, one.model, one.turns) == (first.name, "One [31mred", MODEL, 2)
    assert two.name == second.name
    assert two.title.endswith("...")
    assert len(two.title) <= 60
    assert before <= one.updated <= two.updated <= time.time()
    monkeypatch.setattr(store_module, "read_chat", None)
    assert store.list() == [two, one]  # which has not read them again


def test_only_the_owner_reads(store):
    before = os.umask(0)
    try:
        saved(store, "Who?", shown=[PICTURE])
        store.history.write_text("Who?\n")
        assert store.cache_folder.parent == store.folder
    finally:
        os.umask(before)
    found = {path.relative_to(store.folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in walk(store)}
    assert {each: mode for each, mode in found.items() if mode not in (0o600, 0o700)} == {}
    assert {"sessions", "media", "history", "lock"} <= found.keys()
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def walk(store):
    return sorted(store.folder.rglob("*"))


def test_a_history_that_others_could_read_is_closed(store):
    store.history.chmod(0o644)
    assert stat.S_IMODE(store.history.stat().st_mode) == 0o600


@pytest.mark.parametrize("call", [lambda store: saved(store, "Hi"), lambda s: s.history, lambda s: s.cache_folder])
def test_where_nothing_can_be_written(tmp_path, call):
    (tmp_path / "data").write_text("")
    with pytest.raises(InputError, match=r"cannot keep chats in .*data"):
        call(Store(tmp_path / "data"))


# Media


def test_media_are_written_once_and_shared(store, other):
    one = saved(store, "Who?", shown=[PICTURE])
    about = (store.folder / "media" / digest(PICTURE)).stat()
    two = saved(other, "Who is it?", shown=[PICTURE, SOUND])
    assert (store.folder / "media" / digest(PICTURE)).stat().st_mtime_ns == about.st_mtime_ns
    two.delete()
    assert media(store) == [digest(PICTURE)]
    one.delete()
    assert (media(store), names(store)) == ([], [])


def test_media_that_a_chat_names_no_longer_go(store):
    entry = saved(store, "Who?", shown=[PICTURE])
    entry.save(talk("Who?"))
    assert media(store) == []


@pytest.mark.parametrize("content", ["damaged", "later"])
def test_media_of_files_that_cannot_be_read_stay(store, content):
    entry = saved(store, "Who?", shown=[PICTURE])
    path = store.folder / "sessions" / f"{entry.name}.json"
    text = path.read_text()
    path.write_text(text[:-9] if content == "damaged" else text.replace('"version": 1', '"version": 2'))
    saved(store, "Hi").delete()
    assert media(store) == [digest(PICTURE)]


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_medium_that_is_lost(store, notes, harm):
    entry = saved(store, "Who?", shown=[PICTURE, SOUND])
    harm(store.folder / "media" / digest(PICTURE))
    again, read = store.open(entry.name)
    assert notes == [f"{entry.name} has lost 1 of its pictures, sounds or videos; it goes on without."]
    lost = {"type": "text", "text": "[a picture that is no longer there]"}
    assert read.messages[0] == {"role": "user", "content": [lost, *talk("Who?", shown=[SOUND]).messages[0]["content"]]}
    again.save(read)
    assert store.open()[1].messages == read.messages
    saved(store, "Again", shown=[PICTURE])
    assert (store.folder / "media" / digest(PICTURE)).read_bytes() == PICTURE


@pytest.mark.parametrize(
    "value",
    [
        "/etc/hostname",
        "file:///etc/hostname",
        "http://127.0.0.1/x.png",
        {"sha256": "../../secret", "type": "image/png"},
        {"sha256": "/etc/hostname", "type": "image/png"},
        {"sha256": "0" * 64 + "\n", "type": "image/png"},
        {"sha256": 5, "type": "image/png"},
        {"sha256": digest(PICTURE), "type": "text/html,<script>"},
        {"sha256": digest(PICTURE), "type": "image/png", "path": "/etc/hostname"},
        [],
    ],
)
def test_no_path_in_a_file_is_followed(store, notes, value):
    entry = saved(store, "Who?", shown=[PICTURE])
    (store.folder.parent / "secret").write_bytes(b"secret")
    path = store.folder / "sessions" / f"{entry.name}.json"
    text = path.read_text()
    found = re.sub(r'\{\s+"sha256": "[0-9a-f]+",\s+"type": "image/png"\s+\}', lambda _: json.dumps(value), text)
    assert found != text
    path.write_text(found)
    assert "no longer there" in store.open()[1].messages[0]["content"][0]["text"]
    assert len(notes) == 1


def test_what_only_looks_like_a_medium_stays(tmp_path):
    """Arguments of calls, and URLs that would not come back as they were."""
    folder = store_media.MediaFolder(tmp_path)
    reference = {"type": "image", "url": {"sha256": digest(PICTURE), "type": "image/png"}}
    call = {
        "function": {"name": "draw", "arguments": {"it": reference, "that": {"type": "image", "url": url(PICTURE)}}}
    }
    odd = [f"data:image/png;base64,{text}" for text in ("AA=", "AB==", "A A=", "é")] + [
        "data:,Hi",
        "data:;x;base64,AA==",
    ]
    content = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        *({"role": "user", "content": [{"type": "image", "url": each, "text": None}]} for each in odd),
        {"role": "user", "content": [{"type": "image", "base64": "AA==", "url": None}]},
    ]
    stored = folder.stored(content)
    assert stored == content
    assert folder.restored(stored) == (content, 0)
    assert list(tmp_path.iterdir()) == []


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Why is the sky so blue?", "why-is-the-sky-so"),
        ("../../etc/passwd\0\n", "etc-passwd"),
        ("Schöne Grüße", "schöne-grüße"),
        ("空が青いのはなぜ", "空が青いのはなぜ"),
        ("/*?!\ud800", "chat"),
        ("x" * 500, "x" * 80),
        ("漢" * 100, "漢" * 26),
        ([{"type": "image", "url": url(PICTURE)}, {"type": "text", "text": " "}], "picture"),
    ],
)
def test_names_are_made_of_the_date_and_the_first_words(text, name):
    made = store_names.made_name([{"role": "system", "content": "S"}, {"role": "user", "content": text}])
    assert made == f"{time.strftime('%Y-%m-%d')}-{name}"
    assert store_names.is_name(made)


def test_names_never_collide(store, other):
    """Chats that begin alike, saved by several processes at once."""
    entries = [each.begin(MODEL) for each in [store, other] * 4]
    threads = [
        threading.Thread(target=entry.save, args=[talk("Hi", str(number))]) for number, entry in enumerate(entries)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert names(store) == sorted(entry.name for entry in entries)
    assert len(set(names(store))) == 8
    for number, entry in enumerate(entries):
        assert store.open(entry.name)[1].messages == talk("Hi", str(number)).messages


@pytest.mark.parametrize(
    "name", ["", " ", "../x", "a/b", ".hidden", "-x", "x.", "a\nb", "a\0", "\ud800", "x" * 121, "\033[1m"]
)
def test_names_that_no_file_can_have(store, name):
    entry = saved(store, "Hi")
    before = entry.name
    with pytest.raises(InputError, match="is no name for a chat: it begins with"):
        entry.rename(name)
    assert (entry.name, names(store)) == (before, [before])


def test_a_name_of_ones_own(store):
    entry = saved(store, "Hi")
    entry.rename("  Gru\u0308ße an v1.5, no".replace(",", ""))
    assert names(store) == [entry.name] == ["Gr\u00fcße an v1.5 no"]
    entry.save(talk("Hi", "Ho"))
    assert store.open("grü")[1].turns == 2
    entry.rename("grüsse")
    entry.rename("Grüße")
    assert names(store) == ["Grüße"]
    later = store.begin(MODEL)
    with pytest.raises(InputError, match="a saved chat GRÜSSE already"):
        later.rename("GRÜSSE")
    later.rename("x" * 120)
    assert len(names(store)) == 1
    saved(store, "Ho", name="X" * 120)
    later.save(talk("Hi"))
    assert names(store) == ["Grüße", "X" * 120, "x" * 120 + "-2"]


def test_which_chat_is_opened(store):
    for name in ("apple", "apple-2", "Apricot", "berry", "alder"):
        saved(store, name, name=name)
    opened = {said: store.open(said)[0].name for said in ("apple", "APPLE", "apr", "b", "apple-")}
    assert opened == {"apple": "apple", "APPLE": "apple", "apr": "Apricot", "b": "berry", "apple-": "apple-2"}
    assert store.open()[0].name == "alder"
    with pytest.raises(InputError, match="'ap' may be apple, apple-2, Apricot: say more"):
        store.open("ap")
    with pytest.raises(InputError, match="'' may be .* and 2 more"):
        store.open("")
    for said in ("cherry", "../sessions/apple", "apple.json"):
        with pytest.raises(InputError, match="no saved chat whose name begins with"):
            store.open(said)
    store.open("berry")[0].save(talk("New"))
    assert store.open()[0].name == "berry"


# What is wrong with a file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe\0", "is not valid JSON"),
        (b'{"format": "mlx_gemma4_assist chat", "version": 1, "se', "is not valid JSON"),
        (b"[" * 99999, "nested too deep"),
        (b"[]", "expected an object"),
        (b"{}", "holds no chat"),
        (b'{"format": "mlx_gemma4_assist chat", "version": 2}', "broken was saved by a later version of this program"),
        (b'{"format": "mlx_gemma4_assist chat", "version": "1"}', "is damaged"),
        (b'{"format": "mlx_gemma4_assist chat", "version": 1}', "is damaged"),
    ],
)
def test_files_that_hold_no_chat(store, notes, content, message):
    saved(store, "Hi", name="whole")
    (store.folder / "sessions" / "broken.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        store.open("broken")
    assert "\n" not in str(caught.value)
    assert names(store) == names(store) == ["whole"]
    assert store.open()[0].name == "whole"
    (line,) = notes
    assert re.search(message, line)
    assert line.endswith("; it is left out.")
    (store.folder / "sessions" / "whole.json").unlink()
    with pytest.raises(InputError, match="none of the chats in .* can be read"):
        store.open()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", 5),
        ("model", None),
        ("revision", []),
        ("updated", "now"),
        ("updated", float("nan")),
        ("updated", 10**400),
        ("updated", -1),
        ("turns", True),
        ("turns", 1.5),
        ("session", []),
    ],
)
def test_damaged_fields(store, notes, key, value):
    entry = saved(store, "Hi")
    path = store.folder / "sessions" / f"{entry.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match="is damaged: it holds no whole chat"):
        store.open(entry.name)
    assert names(store) == []
    assert len(notes) == 1


def test_a_damaged_session(store):
    entry = saved(store, "Hi")
    path = store.folder / "sessions" / f"{entry.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"session": {"what": 1}}))
    with pytest.raises(InputError, match=re.escape(str(path))):
        store.open()


def test_a_chat_with_another_model(store, notes):
    saved(store, "Hi", name="hi")
    assert store.open()[0].model == MODEL
    entry, session = store.open(model="google/gemma-4-31B-it")
    (line,) = notes
    assert line == f"hi was a chat with {MODEL}; google/gemma-4-31B-it reads it again and goes on."
    entry.save(session)
    assert store.list()[0].model == "google/gemma-4-31B-it"


def test_what_would_not_be_read_again_is_not_written(store):
    entry = saved(store, "Hi", name="hi")
    deep = []
    for _ in range(200):
        deep = [deep]
    session = talk("Hi")
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": deep}}}
    session.say(user("Call"))
    session.answer({"role": "assistant", "content": "", "tool_calls": [call]})
    with pytest.raises(InputError, match="the chat hi is nested too deep"):
        entry.save(session)
    assert store.open()[1].messages == talk("Hi").messages


def test_long_and_odd_chats(store, notes):
    session = talk(*(f"Message {number}" for number in range(300)))
    session.edit(user("Half a pair \udce4, \0, \u2028, \N{CAT}"))
    session.answer({"role": "assistant", "content": "\ud83d"})
    store.begin(MODEL).save(session)
    assert store.open()[1].messages == session.messages
    assert notes == []


# Several at once


def test_two_that_go_on_with_one_chat(store, other, notes):
    saved(store, "Hi", name="hi")
    (mine, session), (theirs, their_session) = store.open(), other.open()
    their_session.say(user("Theirs"))
    their_session.answer({"role": "assistant", "content": "1"})
    theirs.save(their_session)
    session.say(user("Mine"))
    session.answer({"role": "assistant", "content": "2"})
    mine.save(session)
    theirs.save(their_session)
    mine.save(session)
    assert notes == ["Another chat has changed hi meanwhile; this one is saved as hi-2."]
    assert store.open("hi")[1].messages == their_session.messages
    assert store.open("hi-2")[1].messages == session.messages


def test_a_chat_that_is_still_open_where_it_began(store, other, notes):
    """What was read elsewhere is known; what is written behind it is not."""
    theirs = saved(other, "Hi", name="hi")
    mine, session = store.open()
    theirs.save(talk("Hi", "Theirs"))
    mine.save(session)
    assert (mine.name, len(notes)) == ("hi-2", 1)
    assert store.open("hi")[1].turns == 2


def test_a_file_that_is_no_longer_ours_stays(store, notes):
    entry = saved(store, "Hi", name="hi")
    path = store.folder / "sessions" / "hi.json"
    path.write_text("my notes")
    entry.save(talk("Hi", "Ho"))
    assert path.read_text() == "my notes"
    assert entry.name == "hi-2"
    path.write_text("my notes")
    entry.rename("ho")
    entry.save(talk("Hi", "Ho"))
    assert names(store) == ["ho"]
    (store.folder / "sessions" / "ho.json").write_text("more")
    with pytest.raises(InputError, match="ho was changed by another chat"):
        entry.delete()


def test_a_chat_that_another_process_has_removed_is_saved_again(store, other, notes):
    entry = saved(store, "Who?", shown=[PICTURE], name="hi")
    other.open()[0].delete()
    assert media(store) == []
    entry.save(talk("Who?", "And?", shown=[PICTURE]))
    assert store.open("hi")[1].messages == talk("Who?", "And?", shown=[PICTURE]).messages
    assert notes == []


def test_a_process_that_does_not_let_go(store, monkeypatch):
    entry = saved(store, "Hi")
    monkeypatch.setattr(store_module, "PATIENCE", 0.05)
    with held(store.folder / "lock"), pytest.raises(InputError, match=r"another process holds .*lock"):
        entry.save(talk("Hi", "Ho"))
    entry.save(talk("Hi", "Ho"))
    assert store.open()[1].turns == 2


# Whatever goes wrong


class Fault:
    """The n-th step of those that ask the system for something raises."""

    STEPS = ("mkdir", "open", "fsync", "replace", "unlink", "scandir")

    def __init__(self, monkeypatch, error):
        self.error, self.left, self.done = error, -1, 0
        for name in self.STEPS:
            monkeypatch.setattr(os, name, self.step(getattr(os, name)))

    def step(self, call):
        def counted(*args, **kwargs):
            self.left -= 1
            if self.left == -1:
                raise self.error
            return call(*args, **kwargs)

        return counted


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_every_step_of_a_save_may_fail(store, notes, monkeypatch, error):
    """Then the chat is there as it was or as it is, and the next save works, by the same name."""
    entry = saved(store, "Who?", shown=[PICTURE], name="hi")
    before, after = talk("Who?", shown=[PICTURE]), talk("Who?", "What?", shown=[SOUND])
    fault, failed = Fault(monkeypatch, error), 0
    for step in range(200):
        fault.left, said = step, ""
        try:
            entry.save(after)
        except (InputError, KeyboardInterrupt) as raised:
            failed, said = failed + 1, str(raised)
        assert not said or "the disk is full" in said
        finished = fault.left >= 0
        fault.left = -2
        fresh = Store(store.folder, notes=notes.append)
        assert fresh.open("hi")[1].messages in (before.messages, after.messages)
        entry.save(before)
        assert fresh.open("hi")[1].messages == before.messages
        if finished:
            break
    assert finished
    assert failed >= 8
    assert (names(store), notes) == (["hi"], [])
    entry.save(before)
    assert {path.name for path in walk(store)} == {"sessions", "media", "lock", "hi.json", digest(PICTURE)}


def test_what_was_left_half_done_goes(store, monkeypatch):
    """Of processes that were killed, and of a save that failed when its media were there already."""
    entry = saved(store, "Who?", shown=[PICTURE], name="hi")
    left = [store.folder / "sessions" / ".x.json-1.unfinished", store.folder / "media" / ".x-1.unfinished"]
    left.append(store.folder / "media" / digest(VIDEO))
    for path in left:
        path.write_bytes(VIDEO)
    saved(store, "Hi", name="ho")
    assert [path for path in left if path.exists()] == []
    with monkeypatch.context() as patch:
        patch.setattr(entry, "_write", raising(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(InputError, match="cannot keep chats in .*data: Input/output error"):
            entry.save(talk("Who?", shown=[SOUND]))
    assert digest(SOUND) in media(store)
    entry.save(talk("Who?", shown=[PICTURE]))
    assert media(store) == [digest(PICTURE)]


def raising(error):
    def fail(*_):
        raise error

    return fail


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
from mlx_gemma4_assist.engine.session import Session
from mlx_gemma4_assist.terminal.store import Store
folder, url = Path(sys.argv[1]), sys.argv[2]

def talk(turns):
    session = Session()
    for turn in range(turns):
        text = {"type": "text", "text": str(turn)}
        session.say({"role": "user", "content": [{"type": "image", "url": url + "AA" * 2 * turn}, text]})
        session.answer({"role": "assistant", "content": "x" * 20000})
    return session

def child(work):
    number = os.fork()
    if not number:
        work()
        os._exit(0)
    return number

def killed_at(step):
    left = step
    def count(event, args):
        nonlocal left
        if event.startswith(("open", "os.", "tempfile", "fcntl")) and event != "os.kill":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    fsync = os.fsync
    os.fsync = lambda handle: (sys.audit("os.fsync"), fsync(handle))
    entry, session = Store(folder / "steps").open("hi")
    more = talk(session.turns + 1)
    sys.addaudithook(count)
    entry.save(more)

def saving(until):
    entry, session = Store(folder / "times").open("hi")
    for turns in range(session.turns + 1, session.turns + 200):
        entry.save(talk(turns % 7 + 1))

def check(name, problems):
    lines = []
    entry, session = Store(folder / name, notes=lines.append).open("hi")
    if lines or len(Store(folder / name, notes=lines.append).list()) != 1 or session.turns < 1:
        problems.append((name, lines, session.turns))
    return session.turns

problems = []
for name in ("steps", "times"):
    entry = Store(folder / name).begin("m")
    entry.rename("hi")
    entry.save(talk(1))
steps = 0
while True:
    status = os.waitpid(child(lambda: killed_at(steps)), 0)[1]
    if check("steps", problems) not in (1, 2):
        problems.append(steps)
    Store(folder / "steps").open()[0].save(talk(1))
    steps += 1
    if status == 0 or steps > 300:
        break
for _ in range(12):
    number = child(lambda: saving(200))
    time.sleep(random.random() * 0.06)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    check("times", problems)
for name in ("steps", "times"):
    Store(folder / name).open()[0].save(talk(1))
print(json.dumps([steps, problems]))
"""


def test_killed_at_every_step_and_at_any_time(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "data:image/png;base64,"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    steps, problems = json.loads(done.stdout)
    assert problems == []
    assert 20 < steps < 300
    for name in ("steps", "times"):
        assert [path.name for path in (tmp_path / name / "sessions").iterdir()] == ["hi.json"]
        assert [path.name for path in (tmp_path / name / "media").iterdir()] == [digest(b"")]


# How chats leave it


CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": {"at": "```"}}}


def everything():
    session = talk("Who\nis it?", shown=[PICTURE, SOUND, VIDEO], system="Be brief.")
    session.say(user("Look.", PICTURE))
    session.answer(
        {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "</details> ```\nHm"}
    )
    session.say({"role": "tool", "name": "look", "tool_call_id": "call_1", "content": "# sunny ````"})
    session.answer({"role": "assistant", "content": "```python\nprint(1)", "reasoning_content": "```\nx"})
    return session


def test_as_markdown():
    text = as_markdown(everything(), "A\ntalk")
    parts = [
        "# A talk",
        "## System",
        "Be brief.",
        "## User",
        "\\[picture 1\\]",
        "\\[sound 1\\]",
        "\\[video 1\\]",
        "Who\nis it?",
        "## Assistant",
        "Who\nis it?!",
        "## User",
        "\\[picture 1\\]",
        "Look.",
        "## Assistant",
        "<details>\n<summary>Thought</summary>\n\n&lt;/details> ```\nHm\n\n</details>",
        'Calls `look`:\n\n````json\n{\n  "at": "```"\n}\n````',
        "## Tool `look`",
        "`````\n# sunny ````\n`````",
        "## Assistant",
        "<details>\n<summary>Thought</summary>\n\n```\nx\n```\n\n</details>",
        "```python\nprint(1)\n```",
    ]
    assert text == "\n\n".join(parts) + "\n"


def test_exported_as_markdown_with_files_beside_it(tmp_path):
    export(everything(), tmp_path / "my talk.md")
    text = (tmp_path / "my talk.md").read_text()
    assert text.startswith("# my talk\n")
    assert text.count("![picture 1](my%20talk-files/picture-1.png)") == 2
    assert "[sound 1](my%20talk-files/sound-1.wav)" in text
    found = {path.name: path.read_bytes() for path in (tmp_path / "my talk-files").iterdir()}
    assert found == {"picture-1.png": PICTURE, "sound-1.wav": SOUND, "video-1.mp4": VIDEO}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")} == {0o600}
    export(talk("Hi"), tmp_path / "other.md", "Title")
    assert (tmp_path / "other.md").read_text() == "# Title\n\n## User\n\nHi\n\n## Assistant\n\nHi!\n"


def test_exported_json_is_what_the_server_takes(tmp_path):
    session = everything()
    export(session, tmp_path / "talk.json")
    content = json.loads((tmp_path / "talk.json").read_text())
    assert content == json.loads(as_json(session))
    picture, sound, video, _ = content["messages"][1]["content"]
    assert picture == {"type": "image_url", "image_url": {"url": url(PICTURE)}}
    assert sound["input_audio"] == {"data": base64.b64encode(SOUND).decode(), "format": "wav"}
    assert video == {"type": "video_url", "video_url": {"url": url(VIDEO)}}
    assert content["messages"][4]["tool_calls"][0]["function"]["arguments"] == '{"at": "```"}'
    model = Model("m", pictures=True, sound=True, video=True)
    assert openai_messages.conversation(content, model) == session.messages


@pytest.mark.parametrize("name", ["talk", "talk.txt", "talk.md.exe"])
def test_other_endings(tmp_path, name):
    with pytest.raises(InputError, match=r"ends in neither \.md nor \.json"):
        export(talk("Hi"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["talk.md", "talk.json"])
def test_nothing_is_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="there is a file .* already"):
        export(talk("Hi"), tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "other-files").mkdir()
    with pytest.raises(
        InputError, match="cannot write .*other.md: .* would go to .*other-files, which is there already"
    ):
        export(talk("Hi", shown=[PICTURE]), tmp_path / "other.md")
    for elsewhere in (tmp_path / "no" / name, tmp_path / f"a\0{name}", tmp_path / f"{'a' * 300}{name}"):
        with pytest.raises(InputError, match="cannot write"):
            export(talk("Hi", shown=[PICTURE]), elsewhere)
    assert {path.name for path in tmp_path.iterdir()} == {name, "other-files"}


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*talk.md: the disk is full"):
        export(talk("Hi", shown=[PICTURE]), tmp_path / "talk.md")
    assert list(tmp_path.iterdir()) == []


# The clipboard


class Terminal:
    """Takes text; a terminal or not."""

    def __init__(self, tty=True):
        self.text, self.tty = "", tty

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.fixture
def programs(tmp_path):
    """Makes programs that copy what they read into a file of their name, or do something else."""

    def make(*names, does='cat > "$0.taken"; echo "$LC_CTYPE" "$@" > "$0.told"'):
        for name in names:
            (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / name).chmod(0o755)
        return {"PATH": f"{tmp_path}:/usr/bin:/bin", "TERM": "xterm"}

    return make


@pytest.mark.parametrize(
    ("platform", "environ", "used", "told"),
    [
        ("darwin", {}, "pbcopy", "UTF-8"),
        ("linux", {"WAYLAND_DISPLAY": "w", "DISPLAY": ":0"}, "wl-copy", ""),
        ("linux", {"DISPLAY": ":0"}, "xclip", "-selection clipboard"),
        ("linux", {}, "the terminal (OSC 52)", None),
    ],
)
def test_who_copies(tmp_path, programs, platform, environ, used, told):
    terminal = Terminal()
    environ |= programs("pbcopy", "wl-copy", "xclip", "xsel")
    assert clipboard.copy("Früh \ud800", environ, platform, terminal) == used
    if told is None:
        assert terminal.text == f"\033]52;c;{base64.b64encode('Früh ?'.encode()).decode()}\a"
    else:
        assert (tmp_path / f"{used}.taken").read_text() == "Früh ?"
        assert (tmp_path / f"{used}.told").read_text().strip() == told
        assert terminal.text == ""


@pytest.mark.parametrize("does", ["exit 1", "exec sleep 60", "cat > /dev/null & exit 3"])
def test_a_program_that_fails_or_hangs(programs, monkeypatch, does):
    monkeypatch.setattr(clipboard, "PATIENCE", 0.3)
    environ = programs("xclip", does=does) | programs("xsel") | {"DISPLAY": ":0"}
    begin = time.monotonic()
    assert clipboard.copy("x", environ, "linux", Terminal()) == "xsel"
    assert time.monotonic() - begin < 4


def test_a_program_that_leaves_a_process_behind(programs):
    environ = programs("xclip", does="sleep 5 & exit 0") | {"DISPLAY": ":0"}
    begin = time.monotonic()
    assert clipboard.copy("x", environ, "linux", Terminal()) == "xclip"
    assert time.monotonic() - begin < 4


@pytest.mark.parametrize(
    ("text", "environ", "tty"),
    [
        ("x", {"TERM": "xterm"}, False),
        ("x", {"TERM": "dumb"}, True),
        ("x", {}, True),
        ("x" * 60000, {"TERM": "xterm"}, True),
    ],
)
def test_where_nothing_can_copy(text, environ, tty):
    terminal = Terminal(tty)
    assert clipboard.copy(text, {"PATH": "/nowhere", "DISPLAY": ":0", **environ}, "linux", terminal) is None
    assert terminal.text == ""
