"""The chat without a terminal: what of a conversation is computed, what Ctrl-C leaves, scripts, exit codes."""

import io
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from inspect import signature
from itertools import pairwise

import pytest
from support.paths import PHOTO, ROOT
from support.running import Stranger, running
from support.serving import MODEL, ScriptedBackend, finished, piece

from mlx_gemma4_assist import ChatSession, InputError, MediaOptions, Pair
from mlx_gemma4_assist.commands import chat_opening
from mlx_gemma4_assist.commands import run as commands
from mlx_gemma4_assist.commands.chat import chat as command
from mlx_gemma4_assist.commands.chat_opening import Local
from mlx_gemma4_assist.commands.chat_start import WHO_ANSWERS
from mlx_gemma4_assist.commands.generate import generate
from mlx_gemma4_assist.commands.options import ModelChoice, Said
from mlx_gemma4_assist.commands.run import run_one
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.engine.prefix import LEAST
from mlx_gemma4_assist.engine.session import Session
from mlx_gemma4_assist.server.exchange import Piece, Started, TokenInfo
from mlx_gemma4_assist.server.service import Service
from mlx_gemma4_assist.terminal import prompt as prompts
from mlx_gemma4_assist.terminal import talk as talks
from mlx_gemma4_assist.terminal.chat import Chat
from mlx_gemma4_assist.terminal.opening import Opened, Opening
from mlx_gemma4_assist.terminal.store import Store
from mlx_gemma4_assist.terminal.style import Terminal
from mlx_gemma4_assist.text.deltas import ThoughtDelta

MORNING = "It was a fine morning, and"


@pytest.fixture(scope="module")
def tiny():
    return Pair.load("tiny")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing of these conversations is kept elsewhere."""
    monkeypatch.setenv("MLX_GEMMA4_ASSIST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLX_GEMMA4_ASSIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture
def talk(tiny, monkeypatch, capsys):
    """Lets a chat run over lines of standard input, bytes or texts; its exit code, what it says, what it notes."""
    monkeypatch.setattr(chat_opening, "load_pair", lambda *_: tiny)

    def run(lines, *arguments):
        content = b"".join((each if isinstance(each, bytes) else each.encode()) + b"\n" for each in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        words = arguments if {"-m", "--max-tokens"} & set(arguments) else ("--max-tokens", "24", *arguments)
        monkeypatch.setattr(sys, "argv", ["chat", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_one(command)
        return (ended.value.code, *capsys.readouterr())

    return run


def alone(tiny, messages, **options):
    """The answers that an engine gives which keeps nothing."""
    service = Service(
        Checkpoint.open("tiny"), load=lambda: tiny, engine=lambda pair: Engine(pair, prefix_cache_bytes=0)
    )
    session, texts = ChatSession(service, options={"max_tokens": 24, **options}), []
    try:
        for message in messages:
            texts.append("".join(piece.text for piece in session.send(message)))
    finally:
        service.close()
    return texts


def reused(said):
    """(reused, all) prompt tokens of each answer, as the lines on them have it."""
    found = re.findall(r"([\d,]+) of ([\d,]+) prompt tokens reused", said)
    return [tuple(int(number.replace(",", "")) for number in each) for each in found]


# Conversations


def test_later_turns_compute_only_what_is_new(tiny, talk):
    """Five turns, past the sliding window of 64: each answer is that of an engine that keeps nothing."""
    messages = [MORNING, "What did she say?", "Who came?", "And then?", "Is that all?"]
    code, out, err = talk(messages, "-m", "40")
    assert (code, out) == (0, "".join(f"{text}\n" for text in alone(tiny, messages, max_tokens=40)))
    figures = reused(err)
    assert len(figures) == 5
    assert figures[0][0] == 0
    new = [of - before for (_, before), (_, of) in pairwise(figures)]  # the last answer's tokens among them
    assert all(of - kept <= tokens + LEAST for (kept, of), tokens in zip(figures[1:], new, strict=True))
    assert figures[4][1] > 150
    assert figures[4][1] - figures[4][0] < 30


def test_a_conversation_with_commands(talk):
    lines = ["h", "/undo", "Hello", "/stats", "/undo", "/context", "Hello", "r", "Hello", "", "q", "more"]
    code, out, err = talk(lines)
    assert code == 0
    for said in (
        "There is nothing to take back.",
        "The last exchange is taken back.",
        "A new conversation.",
        "1 answer, ",
        "Context: 0 of 4,096",
        "/compare",
    ):
        assert said in err
    answers = out.splitlines()
    assert len(answers) == 3
    assert len(set(answers)) == 1  # greedy, from the same beginning


def test_what_is_no_command_is_said_to_be_none(talk, tmp_path):
    (tmp_path / "there").mkdir()
    code, out, err = talk(["/hepl", "// Hello", f"{tmp_path}/there is a folder", "/nowhere/at all"])
    assert code == 0
    assert "there is no command /hepl, perhaps /help" in err
    assert "there is no command /nowhere/at" in err
    assert len(out.splitlines()) == 2


def test_lines_that_go_on(talk):
    _code, out, err = talk(["She \\", "was \\", "glad.", "/context", "/undo", '"""She', "was", 'glad."""', "/context"])
    assert len(out.splitlines()) == 2
    first, second = re.findall(r"Context: (\d+) of", err)
    assert abs(int(first) - int(second)) < 9
    assert talk(["She \\"])[1]  # the end of the input ends the message


class PressingCtrlC(talks.AnswerView):
    """Presses Ctrl-C when a few pieces of text have been shown."""

    after, times = 5, 1

    def show(self, piece):
        super().show(piece)
        type(self).after -= 1
        if self.after == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.fixture
def pressing(monkeypatch):
    """Lets Ctrl-C be pressed so often after so many pieces of an answer."""

    def press(after, times):
        monkeypatch.setattr(talks, "AnswerView", type("View", (PressingCtrlC,), {"after": after, "times": times}))

    return press


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(talk, pressing):
    before = signal.getsignal(signal.SIGINT)
    pressing(5, 1)
    code, out, err = talk([MORNING, "What did she say?"], "-m", "200")
    assert signal.getsignal(signal.SIGINT) is before
    assert code == 0
    assert err.count("; stopped]") == 1
    stopped, answered = out.splitlines()
    assert stopped
    assert len(stopped) < len(answered)


def test_what_was_stopped_is_gone_on_from(tiny, talk, pressing):
    """The next prompt has what there was of the answer, and computes little."""
    pressing(5, 1)
    _code, out, err = talk([MORNING, "What did she say?"])
    kept, of = reused(err)[1]
    assert of - kept <= of - reused(err)[0][1] + LEAST
    session = ChatSession(service := Service(Checkpoint.open("tiny"), load=lambda: tiny), options={"max_tokens": 24})
    try:
        session.session.say({"role": "user", "content": MORNING})
        session.session.answer({"role": "assistant", "content": out.splitlines()[0]})
        assert "".join(piece.text for piece in session.send("What did she say?")) == out.splitlines()[1]
    finally:
        service.close()


def test_ctrl_c_twice_leaves(talk, pressing):
    pressing(5, 2)
    code, out, err = talk([MORNING, "What did she say?"])
    assert code == 130
    assert len(out.splitlines()) == 1
    assert "Traceback" not in err


def test_ctrl_c_at_the_prompt(talk, monkeypatch):
    """Once it says how to leave, twice it leaves."""
    pressed = iter([KeyboardInterrupt, "Hello", KeyboardInterrupt, KeyboardInterrupt, "never"])

    def read(self, default=""):
        found = next(pressed)
        if found is KeyboardInterrupt:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(prompts.Prompt, "read", read)
    code, out, err = talk([])
    assert code == 0
    assert err.count("Ctrl-C again, Ctrl-D or q leaves.") == 2
    assert len(out.splitlines()) == 1


def test_ctrl_c_at_the_prompt_leaves_a_message_as_it_was(talk, monkeypatch, home):
    """And so does an empty line: what is typed then is a message of its own."""
    pressed = iter(["Hello", "/edit", KeyboardInterrupt, "And?", "/edit 1", "", "More?", "/save talk", None])

    def read(self, default=""):
        found = next(pressed)
        if found is KeyboardInterrupt:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(prompts.Prompt, "read", read)
    assert talk([])[0] == 0
    _, session = Store(home).open("talk")
    assert [each["content"] for each in session.messages if each["role"] == "user"] == ["Hello", "And?", "More?"]


def test_ctrl_c_between_an_answer_and_the_prompt(monkeypatch):
    """Counts as one at the prompt: pressed there once more, it leaves. It is no reason to end in an answer's middle."""
    order = []

    class Talk:
        attached, draft, stopped = (), "", False

    def notes():
        order.append("notes")
        if order.count("notes") == 2:
            raise KeyboardInterrupt
        return []

    def read(self, default=""):
        order.append("read")
        if order.count("read") == 2:
            raise KeyboardInterrupt
        return "/stats"

    monkeypatch.setattr(prompts.Prompt, "read", read)
    chat = Chat(
        Terminal.of(io.StringIO(), io.StringIO()), "", lambda: Opened(ScriptedBackend()), lambda _: Talk(), notes=notes
    )
    monkeypatch.setattr("mlx_gemma4_assist.terminal.slash.run", lambda talk, command: order.append(command.name))
    assert chat.run() == 0
    assert order == ["notes", "read", "stats", "notes", "notes", "read"]


def test_ctrl_c_while_a_prompt_is_read(talk, monkeypatch):
    class Pressed(talks.Keys):
        def __enter__(self):
            entered = super().__enter__()
            signal.raise_signal(signal.SIGINT)
            return entered

    monkeypatch.setattr(talks, "Keys", Pressed)
    code, out, err = talk(["Hello"])
    assert (code, out) == (0, "")
    assert "Nothing was answered" in err


def test_a_conversation_beyond_the_context(talk):
    code, out, err = talk(["Hello", "word " * 5000, "Hello"])
    assert code == 0
    assert "error: " in err
    assert "4096" in err
    assert len(out.splitlines()) == 2


def test_a_full_context_is_called_so(tiny, talk, tmp_path):
    few, more = (len(tiny.text().encode([{"role": "user", "content": "the " * count}])) for count in (100, 200))
    long, file = "the " * (100 + (4060 - few) * 100 // (more - few)), tmp_path / "kept.safetensors"
    code, _out, err = talk([long], "-m", "100000", "--prompt-cache-file", str(file))
    assert code == 0
    assert "the context is full]" in err
    assert int(re.search(r"holds ([\d,]+) tokens now", err)[1].replace(",", "")) > 4000
    assert "; cut off by --max-tokens]" in talk(["Hello"], "-m", "3")[2]


def test_what_does_not_fit_the_model_is_said_in_the_words_that_were_typed(talk):
    """And what was set before goes on."""
    lines = ["/set kv-bits 4", "Hello", "/set kv-bits default", "Hello"]
    code, out, err = talk(lines)
    assert (code, len(out.splitlines())) == (0, 1)
    assert "error: kv-bits quantizes in groups of 64 numbers" in err
    assert "kv-group-size 32 does" in err


def test_sampling_with_a_seed(talk):
    texts = [talk(["Hello", "And?"], "--temp", "1", "--seed", str(seed), "-m", "8")[1] for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_options_reach_the_engine(talk):
    """Stops, biases, a grammar, quantized keys."""
    text = talk(["Hello"])[1]
    word = text.split()[2]
    assert talk(["Hello"], "--stop", word)[1].rstrip() == text.partition(word)[0].rstrip()
    assert talk(["Hello"], "--regex", "(yes|no)!")[1] in ("yes!\n", "no!\n")
    assert talk(["Hello"], "--logit-bias", "5=100")[1].strip() == ""
    assert talk(["Hello"], "--kv-bits", "8", "--kv-group-size", "32", "--system-prompt", "Briefly.")[0] == 0


def test_keys_and_values_may_be_kept_in_a_file(talk, tmp_path):
    """What goes on with the conversation begins with them; what is no such file is refused."""
    file = tmp_path / "kept.safetensors"
    long = ("-m", "40", "--logit-bias", '{"1": -99, "5": -99}')
    code, _, err = talk([MORNING, "And then?", "/save talk"], *long, "--prompt-cache-file", str(file))
    assert code == 0
    length = int(re.search(r"holds (\d+) tokens now", err)[1])
    assert length > 100
    goes_on = (*long, "--resume", "talk", "--no-history")
    code, out, err = talk(["Who came?"], *goes_on, "--prompt-cache-file", str(file))
    assert (code, out) == (0, talk(["Who came?"], *goes_on)[1])
    assert reused(err)[0][0] == length
    file.unlink()
    assert f"{file} is not written, nothing is kept of so short" in talk(["Hi"], "--prompt-cache-file", str(file))[2]
    assert not file.exists()
    file.write_bytes(b"no cache")
    assert talk(["Hello"], "--prompt-cache-file", str(file))[0] == 2


# One answer


def test_one_answer_and_out(tiny, talk):
    (text,) = alone(tiny, [MORNING])
    assert talk([], "--prompt", MORNING)[:2] == (0, f"{text}\n")
    code, out, _err = talk(["It was a fine", "morning, and"], "-p", "-")
    assert (code, len(out.splitlines())) == (0, 1)
    assert talk([], "--prompt", " ")[0] == 2
    assert talk([], "--prompt", "word " * 5000)[:2] == (2, "")


def test_one_answer_that_is_stopped(talk, pressing):
    pressing(5, 1)
    code, out, _ = talk([], "--prompt", MORNING)
    assert code == 130
    assert out


def test_nothing_is_kept_of_scripts(talk, home):
    talk(["Hello"])
    talk([], "--prompt", "Hello")
    assert not (home / "sessions").exists()


def test_scripts_may_go_on_with_what_was_saved(talk, home):
    assert "Saved as first" in talk(["Hello", "/save first"])[2]
    code, out, err = talk(["/undo", "And?", "/sessions"], "--resume")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "first  (1)  And?" in err
    assert [path.stem for path in (home / "sessions").iterdir()] == ["first"]
    code, out, err = talk([], "--resume", "fi", "--prompt", "Then?", "--no-history")
    assert code == 0
    assert "first  (1)" in talk(["/sessions"], "--resume")[2]
    code, out, err = talk([], "--resume", "other")
    assert (code, out) == (2, "")
    assert err == "error: there is no saved chat whose name begins with 'other'\n"


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temp", "-1"], "--temp is -1"),
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--prefill-step-size", "0"], "--prefill-step-size is 0"),
        (["--draft-temperature", "1"], "--draft-temperature needs a --temp above 0"),
        (["--num-assistant-tokens", "99"], "--num-assistant-tokens is 99"),
        (["--thinking", "maybe"], "--thinking is 'maybe', expected off, on, or the most tokens"),
        (["--thinking", "0"], "--thinking is '0', expected"),
        (["--thinking", "on", "--enable-thinking"], "--thinking and --enable-thinking say the same"),
        (["--json-schema", "-"], "--json-schema and messages cannot both be read from standard input"),
        (["--prompt", "-", "--lark", "-"], "--lark and messages cannot both be read from standard input"),
        (["--image", "no/such.png"], "there is no file no/such.png"),
        (["--regex", "a", "--json-schema", "no/such"], "cannot read no/such"),
        (["--api-key", "a"], "--api-key is for a --server"),
        (["--server", "ftp://a"], "--server is 'ftp://a', expected an address"),
        (["--server", "a", "--kv-bits", "4"], "--kv-bits is for a model in this process, but --server lets a server"),
        (["--server", "a", "--no-compile"], "--compile is for a model in this process, but --server lets a server"),
        (["--server", "a", "--no-learned"], "--no-learned is for a model in this process"),
        (["--server", "a", "--assistant-model", "none"], "--assistant-model is for a model in this process"),
        (["--server", "a", "--adapter-path", "b"], "--adapter-path is for a model in this process"),
        (["--server", "a", "--max-soft-tokens", "70"], "--max-soft-tokens is for a model in this process"),
        (["--max-soft-tokens", "71"], "--max-soft-tokens is 71, expected one of 70"),
        (["--resume"], "there is no saved chat yet"),
        (["--model", "nowhere"], "no folder 'nowhere'"),
    ],
)
def test_command_refuses_nonsense(options, message, talk, monkeypatch):
    """In the words that were typed, and before anything is loaded."""
    if "nowhere" not in options and "--draft-temperature" not in options:
        monkeypatch.setattr(chat_opening, "open_checkpoint", lambda *_: pytest.fail("loads"))
    code, out, err = talk([], *options)
    assert (code, out) == (2, "")
    said = [line for line in err.splitlines() if line not in WHO_ANSWERS.splitlines()]
    assert len(said) == 1
    assert message in said[0]


def test_a_model_that_cannot_be_loaded_is_one_line(talk, monkeypatch):
    def broken(*_):
        raise InputError("the weights are damaged")

    monkeypatch.setattr(chat_opening, "load_pair", broken)
    for arguments in ((), ("--prompt", "Hello")):
        code, out, err = talk(["Hello"], *arguments)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1] == "error: the model could not be loaded: the weights are damaged"


def test_a_cache_folder_that_cannot_be_is_one_line(tiny, tmp_path, monkeypatch):
    """The conversation goes on without it."""
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(chat_opening, "load_pair", lambda *_: tiny)
    nothing = {"held": {}, "system_prompt": None, "thinking": None, "shows": frozenset(), "learned": False}
    told = []
    store = Store(tmp_path)
    local = Local(
        choice=ModelChoice(), said=Said({}), store=store, file=None, note=told.append, media=MediaOptions(), **nothing
    )
    opened = local.open()
    opened.load()
    assert "".join(each.text for each in ChatSession(opened.backend, options={"max_tokens": 3}).send("Hi"))
    opened.close()
    (line,) = told
    assert line.startswith("Keys and values are not kept: cannot keep a prefix cache in ")


def test_what_is_left_is_closed(monkeypatch):
    """Who leaves while a model is being opened need not wait for it."""
    opened = Opening(lambda: time.sleep(0.3) or Opened(ScriptedBackend()))
    assert opened.close()  # nothing has begun
    opened.begin()
    assert not opened.close(0.01)
    assert opened.close()
    closed = []
    opened = Opening(lambda: Opened(ScriptedBackend(), close=lambda: closed.append(True)))
    opened.begin()
    assert opened.close()
    assert closed == [True]


def test_failing_is_told_at_the_prompt():
    """The thread that opens lets the prompt end."""
    told = []

    def fails():
        raise InputError("no such model")

    opened = Opening(fails, lambda: told.append(True))
    with pytest.raises(InputError, match="no such model"):
        opened.wait()
    opened.close()
    assert (told, opened.failed, opened.ready) == ([True], True, False)


def test_the_prompt_is_there_before_the_model(monkeypatch):
    """Opening begins as the prompt is drawn; what is typed then waits for it."""
    order = []

    def read(self, default=""):
        order.append("prompt")
        self._toolbar()
        return "Hello" if order.count("prompt") == 1 else None

    def opens():
        order.append("opened")
        return Opened(ScriptedBackend())

    class Talk:
        attached, draft, stopped, last, used, backend = (), "", False, None, 0, ScriptedBackend()

        def message(self, text):
            order.append(text)

    monkeypatch.setattr(prompts.Prompt, "read", read)
    monkeypatch.setattr(Terminal, "interactive", True)
    chat = Chat(Terminal.of(io.StringIO(), io.StringIO()), "model", opens, lambda opened: Talk())
    assert chat.run() == 0
    assert order == ["prompt", "opened", "Hello", "prompt"]
    assert chat.close()


def test_a_chat_ends_when_its_model_fails(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))

    def fails():
        raise InputError("no such model")

    out, notes = io.StringIO(), io.StringIO()
    chat = Chat(Terminal.of(out, notes), "model", fails, lambda opened: pytest.fail("talks"))
    with pytest.raises(InputError, match="no such model"):
        chat.run()
    assert chat.close()


# A server


def test_thoughts_of_scripts_go_where_they_are_asked_for(talk):
    """Beside the answer, which is all that standard output gets."""

    def thinking(request, ticket):
        yield Started(3, 0)
        yield Piece(0, (ThoughtDelta("Hm."),), (TokenInfo(1, "Hm."),))
        yield piece("Yes.")
        yield finished()

    with running(ScriptedBackend(thinking, replace(MODEL, thinking=True))) as url:
        for arguments, shown in ((("--enable-thinking",), False), (("--thinking", "9", "--show-thinking"), True)):
            code, out, err = talk(["Well?"], "--server", url, *arguments)
            assert (code, out, "Hm." in err) == (0, "Yes.\n", shown)


def test_a_server_answers(talk):
    backend = ScriptedBackend()
    with running(backend) as url:
        lines = ["Hi", "/context", "/set kv-bits 4", "/set", "Again"]
        code, out, err = talk(lines, "--server", url, "--temp", "0.5", "--thinking", "off")
    assert "error: kv-bits is for a model in this process, not for one behind a server" in err
    assert "  top-k                 -\n" in err
    assert (code, out) == (0, "Hello, world\nHello, world\n")
    assert "Context: 2 of 4,096 tokens" in err
    assert "4 of 10 prompt tokens reused" in err
    assert [len(request.messages) for request in backend.requests] == [1, 3]
    assert backend.requests[0].options == {"temperature": 0.5, "max_tokens": 24}
    assert backend.requests[0].thinking is False


def test_a_server_whose_model_does_not_think(talk):
    backend = ScriptedBackend()
    backend.model = replace(MODEL, thinking=False)
    with running(backend) as url:
        code, out, err = talk(["Hi"], "--server", url, "--thinking", "on")
    assert (code, out, err) == (2, "", f"error: {MODEL.id} knows no thinking\n")


def test_a_strangers_key_and_model(talk, monkeypatch):
    def answer(body, write):
        write({"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}]}, "data: [DONE]\n\n")

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Stranger(answer, [{"id": "a"}, {"id": "b"}]) as stranger:
        assert talk([], "--server", stranger.url, "--model", "b", "--prompt", "Hi")[:2] == (0, "Yes.\n")
        assert stranger.keys == ["Bearer secret"] * 2
        assert stranger.asked[0]["model"] == "b"
        code, _, err = talk(["Hi", "/assistant off", "/compare"], "--server", stranger.url)
        assert code == 0
        assert "there is no assistant" in err
        assert "made without drafts" in err
        code, _, err = talk([], "--server", stranger.url, "--num-assistant-tokens", "2", "--prompt", "Hi")
        assert (code, "not known to heed num-assistant-tokens" in err) == (2, True)


@pytest.fixture
def saved(home):
    """Saves a conversation with a model, named talk."""

    def save(model):
        entry, session = Store(home).begin(model), Session()
        entry.rename("talk")
        session.say({"role": "user", "content": "Hello"})
        session.answer({"role": "assistant", "content": "Hi."})
        entry.save(session)

    return save


@pytest.fixture
def opened(monkeypatch):
    """Models that are asked for, none of which is there."""
    found = []

    def open_checkpoint(choice, options):
        found.append(choice.model)
        raise InputError("no network")

    monkeypatch.setattr(chat_opening, "checkpoint_sampling", lambda model: {})
    monkeypatch.setattr(chat_opening, "open_checkpoint", open_checkpoint)
    return found


@pytest.mark.parametrize("kept", [(), ("--no-history",)])
def test_the_model_that_was_typed_goes_on(talk, saved, kept):
    """Tiny, too, which is otherwise what answers where nobody is named."""
    saved("someone/gemma")
    code, out, err = talk(["And?"], "--resume", "talk", *kept, "--model", "tiny")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "It was a conversation with someone/gemma; tiny reads it again and goes on." in err


@pytest.mark.parametrize("kept", [(), ("--no-history",)])
@pytest.mark.parametrize(("model", "typed"), [("someone/gemma", ()), ("mine", ("--model", "./mine")), ("tiny", ())])
def test_a_conversation_goes_on_with_its_model(talk, saved, opened, model, typed, kept):
    saved(model)
    assert talk(["And?"], "--resume", "talk", *kept, *typed)[0] == 2
    assert opened == [typed[-1] if typed else model]


def test_a_model_that_nobody_knows_where_to_find_is_not_replaced(talk, saved, opened):
    saved("mine")
    code, out, err = talk(["And?"], "--resume", "talk")
    assert (code, out, opened) == (2, "", [])
    why = "error: it was a conversation with mine, which is no repo: --model or --server names who goes on with it\n"
    assert err == why


def test_a_server_is_asked_for_the_model_that_was_typed(talk):
    with running(ScriptedBackend()) as url:
        code, out, err = talk(["Hi"], "--server", url, "--model", "tiny")
    assert (code, out, err) == (2, "", f"error: {url} has no model 'tiny', but {MODEL.id}\n")


def test_another_model_goes_on(talk):
    assert "Saved as talk" in talk(["Hello", "/save talk"])[2]
    with running(backend := ScriptedBackend()) as url:
        code, out, err = talk(["And?"], "--resume", "--server", url)
    assert (code, out) == (0, "Hello, world\n")
    assert f"It was a conversation with tiny; {MODEL.id} reads it again and goes on." in err
    assert [message["role"] for message in backend.requests[0].messages] == ["user", "assistant", "user"]


def test_an_option_of_generate_is_there_or_has_something_in_its_place():
    missing = set(signature(generate).parameters) - set(signature(command).parameters)
    assert missing == {"messages", "as_json", "skip_special_tokens", "top_logprobs", "ignore_chat_template"}
    page = (ROOT / "docs" / "chat.md").read_text()
    for flag in ("--messages", "--json", "--no-skip-special-tokens", "--top-logprobs", "--ignore-chat-template"):
        assert f"| `{flag}" in page


# Processes


def test_nothing_heavy_is_imported_before_the_prompt():
    """MLX, transformers and what renders Markdown take longer than a person waits."""
    heavy = "{'mlx', 'mlx.core', 'transformers', 'prompt_toolkit', 'pygments', 'jinja2', 'numpy'}"
    code = f"import sys, mlx_gemma4_assist.commands.chat_start; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["--resume"], ["--resume="]),
        (["--resume", "-m", "5"], ["--resume=", "-m", "5"]),
        (["--resume", "name", "-m", "5"], ["--resume", "name", "-m", "5"]),
        (["-m", "5"], ["-m", "5"]),
    ],
)
def test_an_option_may_stand_without_its_value(words, expected):
    assert commands._with_values(words) == expected


def test_standard_input_as_messages():
    line = [sys.executable, "-m", "mlx_gemma4_assist", "chat", "--max-tokens", "8"]
    run = subprocess.run(line, input=b"Hello\nAnd \xff then\nAnd?\n", capture_output=True, check=False)
    assert run.returncode == 0
    assert len(run.stdout.strip().splitlines()) == 2
    assert b"error: the prompt is not valid Unicode" in run.stderr
    assert b"Traceback" not in run.stderr
    assert b"\033" not in run.stderr


def test_pictures_that_the_model_does_not_take(talk):
    code, out, err = talk([f"{PHOTO} Who is it?", "Hello"])
    assert (code, len(out.splitlines())) == (0, 1)
    assert "tiny takes no picture" in err
    assert talk(["Hello"], "--image", str(PHOTO))[0] == 2
