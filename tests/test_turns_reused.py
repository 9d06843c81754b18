"""A conversation of 20 turns computes what is new in each, far past the sliding window, whatever is done to it.

Answers equal those of a service that keeps nothing of earlier turns, token for token. ``pytest -rP`` shows the tables.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from queue import Queue
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import media
from support.chat_format import TEMPLATES
from support.chat_pair import write_chat_pair

from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.pair import Checkpoint, Pair
from mlx_gemma4_assist.engine.reading import shared_length
from mlx_gemma4_assist.server.chat_session import ChatSession, Reply
from mlx_gemma4_assist.server.exchange import Answer, ChatRequest, Event, Failed, Finished, collected
from mlx_gemma4_assist.server.service import Service
from mlx_gemma4_assist.text.processor import Processor

PATIENCE = 120  # seconds, after which a test has failed
SPARE = 64  # tokens that may be computed in a turn besides its own; 256 was asked for
OPENED = "<|channel>thought\n"

# What is done in each turn: the message, or what else; pictures with it; tokens of the answer.
SAY, SHOW, RETRY, EDIT, EDIT_THIRD = "say", "show", "retry", "edit", "edit turn 3"
UNDO, SWITCH = "undo+say", "switch+say"
TURNS = (
    *(SAY, SAY, SHOW, SAY, SAY, RETRY, SAY, UNDO, SAY, EDIT),
    *(SHOW, SAY, EDIT_THIRD, SAY, SWITCH, SAY, SHOW, UNDO, RETRY, SAY),
)
STORY = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property of "
    "some one or other of their daughters."
)


class Watched(Engine):
    """An engine that tells when it has nothing more to do."""

    rested: threading.Event

    def idle(self) -> bool:
        done = super().idle()
        if not done:
            self.rested.set()
        return done


class Watch:
    """A backend that remembers what it was asked, and waits until what nobody asks for has been read."""

    def __init__(self, checkpoint: Checkpoint, pair: Pair):
        self.rested = threading.Event()
        self.requests: list[ChatRequest] = []
        self.prompts: list[Sequence[int]] = []
        self.service = Service(checkpoint, load=lambda: pair, engine=self._engine)
        self.model = self.service.model

    def _engine(self, pair: Pair) -> Engine:
        engine = Watched(pair)
        engine.rested = self.rested
        return engine

    def submit(self, request: ChatRequest, listener: Callable[[Event], None]) -> Any:
        self.requests.append(request)
        self.prompts.append(self.service.tokens(request))
        self.rested.clear()
        return self.service.submit(request, listener)

    def tokens(self, request: ChatRequest) -> Sequence[int]:
        return self.service.tokens(request)


@dataclass
class Turn:
    """What one turn took."""

    what: str
    prompt: int
    new: int
    cached: int
    thought: int

    @property
    def computed(self) -> int:
        return self.prompt - self.cached


class Bench:
    """A conversation that keeps its keys, and a service beside it that keeps none.

    Args:
        checkpoint: of both.
        pair: loaded from it.
        options: of answer ``number`` to a prompt of so many tokens.
    """

    def __init__(self, checkpoint: Checkpoint, pair: Pair, options: Callable[[int, int], dict[str, Any]], **more: Any):
        self.processor = checkpoint.processor
        self.watch = Watch(checkpoint, pair)
        self.cold = Service(checkpoint, load=lambda: pair, engine=lambda each: Engine(each, prefix_cache_bytes=0))
        self.chat = ChatSession(self.watch, **more)
        self.turns: list[Turn] = []
        self._options = options
        self._there: dict[str, list[int]] = {}  # the tokens of a conversation without what is dropped, by its messages
        self.own_words = 0  # turns whose prompts have the answers before them in the model's own tokens

    def turn(self, what: str, ask: Callable[[], Reply]) -> Reply:
        """One turn: what it computes, and that its answer is the cold one's."""
        number = len(self.turns)
        options = self._options(number, len(self.chat.messages))
        for name in ("logits_processors", *options):
            self.chat.set_option(name, options.get(name))
        reply = ask()
        for piece in reply:
            assert "".join(span.text for span in piece.spans) == piece.text
        request, prompt = self.watch.requests[-1], self.watch.prompts[-1]
        assert self.watch.rested.wait(PATIENCE)
        self._check(request, prompt, reply, number)
        known = self._known(what, request, prompt)
        thought = reply.usage.reasoning_tokens
        self.turns.append(Turn(what, len(prompt), len(prompt) - known, reply.cached_tokens, thought))
        self._there[str(self.chat.messages)] = self.processor.history(prompt, reply.token_ids)
        return reply

    def _known(self, what: str, request: ChatRequest, prompt: Sequence[int]) -> int:
        """How many tokens were there of what the turn goes on with; of what is answered again, the whole prompt."""
        if what == RETRY:
            return len(prompt)
        before = list(request.messages[:-1])
        there = self._there.get(str(before), [])
        trimmed = str(before[-1]["content"])[:1].isspace()  # white space before an answer, which templates drop
        if there and not trimmed:
            assert shared_length(there, prompt) >= len(there) - 8, "but for white space and half a character at the end"
            self.own_words += 1
        return len(there)

    def _check(self, request: ChatRequest, prompt: Sequence[int], reply: Reply, number: int) -> None:
        fresh = self._options(number, len(request.messages))
        request = replace(request, options={**request.options, **fresh})
        assert list(self.cold.tokens(request)) == list(prompt)
        answer = asked(self.cold, request)
        assert answer.cached_tokens == 0
        assert tuple(token.id for token in answer.choices[0].tokens) == reply.token_ids
        assert len(prompt) == reply.prompt_tokens

    def close(self) -> None:
        self.watch.service.close()
        self.cold.close()

    def table(self, title: str) -> str:
        rows = [
            f"{i:>4}  {t.what:<12}{t.prompt:>7}{t.new:>6}{t.computed:>10}{t.thought:>9}"
            for i, t in enumerate(self.turns, 1)
        ]
        whole, computed = sum(t.prompt for t in self.turns), sum(t.computed for t in self.turns)
        return "\n".join(
            [
                f"{title}: {computed:,} of {whole:,} tokens of prompts computed",
                f"turn  {'what':<12}{'prompt':>7}{'new':>6}{'computed':>10}{'thought':>9}",
                *rows,
            ]
        )


def asked(service: Service, request: ChatRequest) -> Answer:
    heard: Queue[Event] = Queue()
    events: list[Event] = []
    service.submit(request, heard.put)
    while not events or not isinstance(events[-1], Finished | Failed):
        events.append(heard.get(timeout=PATIENCE))
    return collected(events)


def picture(side: int) -> bytes:
    file = BytesIO()
    Image.fromarray(media.picture(side, 64)).save(file, "PNG")
    return file.getvalue()


def message(number: int) -> str:
    """A message of 30 to 70 letters."""
    begin = 11 * number % 200
    return f"{number}: {STORY[begin : begin + 30 + 7 * number % 40]}"


def talk(bench: Bench, *, shows: bool) -> None:
    """All turns."""
    for number, what in enumerate(TURNS, 1):
        pictures = [picture(64 + 16 * number)] if what == SHOW and shows else []
        bench.turn(what, partial(act, bench.chat, what, message(number), pictures))


def act(chat: ChatSession, what: str, text: str, pictures: Sequence[bytes]) -> Reply:
    """What a person does in a turn."""
    if what == UNDO:
        assert chat.undo()
    if what == SWITCH:
        chat.session.switch(max(chat.session.branches(), key=lambda branch: branch.messages).number)
    if what == RETRY:
        return chat.retry()
    if what in (EDIT, EDIT_THIRD):
        return chat.edit(text, 3 if what == EDIT_THIRD else None)
    return chat.send(text, pictures=pictures)


def check(bench: Bench, title: str) -> None:
    print(bench.table(title))
    for number, turn in enumerate(bench.turns, 1):
        assert turn.computed <= turn.new + SPARE, f"turn {number}"
        assert turn.new < 400 + 60 * (turn.what == SHOW), "what was there is counted as new"
    assert len(bench.turns) == 20
    assert bench.own_words > 10
    assert max(turn.prompt for turn in bench.turns) > 10 * SPARE, "this must not hide a prompt that is read anew"


# The pairs


def test_the_embedded_pair():
    checkpoint = Checkpoint.open("tiny")
    pair = checkpoint.load()
    window = pair.target.config.sliding_window

    def options(number: int, messages: int) -> dict[str, Any]:
        return {"max_tokens": 30 + number, "temperature": 1.0, "seed": number}

    bench = Bench(checkpoint, pair, options, system_prompt="Write as Jane Austen did.")
    try:
        talk(bench, shows=False)
        check(bench, "tiny")
        assert bench.turns[-1].prompt > 8 * window
    finally:
        bench.close()


class Thinks:
    """A logits processor by which a thought begins as the format spells it, and ends; no other control tokens come.

    Args:
        processor: whose tokens.
        thought: tokens of a thought; 0 for none.
        end: tokens of the turn, its end among them; None never ends it.
        vocabulary: of the model.
        first: what it begins with, if no thought.
    """

    def __init__(self, processor: Processor, thought: int, end: int | None, vocabulary: int, first: str = ""):
        opening = processor.tokenize(OPENED if thought else first)
        self._forced = dict(enumerate(opening))
        if thought:
            self._forced[len(opening) + thought] = processor.tokenize("<channel|>")[0]
        if end is not None:
            self._forced[end] = processor.tokenize("<turn|>")[0]
        self._begun: int | None = None
        self._others = np.zeros((1, vocabulary), np.float32)
        known = processor.tokenizer.backend_tokenizer.get_vocab_size()
        self._others[0, [*processor.control.ids.values(), *range(known, vocabulary)]] = -np.inf

    def __call__(self, tokens: Any, logits: Any) -> Any:
        if self._begun is None:
            self._begun = len(tokens)
        forced = self._forced.get(len(tokens) - self._begun)
        bias = self._others
        if forced is not None:
            bias = np.full_like(self._others, -np.inf)
            bias[0, forced] = 0
        return logits + type(logits)(bias)


# The forms differ in what begins an answer without thinking: the full one's empty thought is harder.
@pytest.mark.parametrize(("form", "thinking"), [("full", False), ("compact", True)])
def test_a_pair_with_gemmas_format(tmp_path, form, thinking):
    checkpoint = Checkpoint.open(write_chat_pair(tmp_path / "pair", form))
    pair = checkpoint.load()
    vocabulary = pair.target.config.vocab_size

    def options(number: int, messages: int) -> dict[str, Any]:
        end = None if number % 3 else 26
        thinks = Thinks(checkpoint.processor, 8 if thinking else 0, end, vocabulary)
        return {
            "max_tokens": 30,
            "num_assistant_tokens": 2,
            "temperature": 1.0,
            "seed": number,
            "logits_processors": [thinks],
        }

    bench = Bench(checkpoint, pair, options, system_prompt="Be brief.", thinking=thinking)
    try:
        talk(bench, shows=True)
        check(bench, f"{form}, thinking {'on' if thinking else 'off'}")
        assert all((turn.thought > 0) == thinking for turn in bench.turns)
        assert bench.turns[-1].prompt > 8 * pair.target.config.sliding_window
    finally:
        bench.close()


@pytest.mark.parametrize("space", ["", "\n"])
@pytest.mark.parametrize("form", TEMPLATES)
def test_a_cancelled_answer_is_not_read_again(tmp_path, form, space):
    """What the person has seen of it is there, in its own tokens; also behind an empty thought that is left out.

    White space before an answer is not in later prompts, which is the template's doing.
    """
    checkpoint = Checkpoint.open(write_chat_pair(tmp_path / "pair", form))
    pair = checkpoint.load()
    watch = Watch(checkpoint, pair)
    left_out = len(checkpoint.processor.tokenize(space))
    thinks = Thinks(checkpoint.processor, 0, None, pair.target.config.vocab_size, first=f"{space}the")
    chat = ChatSession(watch, options={"max_tokens": 3000, "temperature": 1.0, "logits_processors": [thinks]})
    try:
        reply = chat.send(STORY)
        while len(reply.token_ids) < 150:
            next(reply)
        reply.cancel()
        assert watch.rested.wait(PATIENCE)
        for name, value in {"max_tokens": 2, "logits_processors": None}.items():
            chat.set_option(name, value)
        tokens, told = reply.token_ids[left_out:], reply.answer.strip()
        texts = [checkpoint.processor.decode(tokens[:count], False) for count in range(len(tokens) + 1)]
        whole = max(count for count, text in enumerate(texts) if told.startswith(text))
        assert whole > 100, "the others are bytes of characters that were not whole"
        there = checkpoint.processor.history(watch.prompts[0], tokens[:whole])
        again = chat.send("And?")
        for _ in again:
            pass
        assert shared_length(there, watch.prompts[1]) == len(there)
        assert again.prompt_tokens - again.cached_tokens < again.prompt_tokens - len(there) + 16
    finally:
        watch.service.close()


def test_a_resumed_conversation_fits_a_cache_on_disk(tmp_path):
    """Another process has not seen the answers: their tokens come from the conversation's file."""
    checkpoint = Checkpoint.open("tiny")
    pair = checkpoint.load()
    options = {"max_tokens": 120, "temperature": 1.0, "seed": 5}

    def opened() -> tuple[Service, ChatSession]:
        service = Service(
            checkpoint, load=lambda: pair, engine=lambda each: Engine(each, prefix_cache_folder=tmp_path / "keys")
        )
        return service, ChatSession(service, options=options)

    service, chat = opened()
    for _ in chat.send(message(1)):
        pass
    for _ in chat.send(message(2)):
        pass
    chat.save(tmp_path / "talk.json")
    service.close()
    service, chat = opened()
    try:
        chat.load(tmp_path / "talk.json")
        reply = chat.send(message(3))
        for _ in reply:
            pass
        assert reply.prompt_tokens - reply.cached_tokens < 60
        assert reply.cached_tokens > 250
    finally:
        service.close()
