"""Which text of a reply came from which token, also where texts are held back, cut, or not shown at all."""

import random

import pytest
from support.chat_format import chat_processor

from mlx_gemma4_assist.server.answering import joined
from mlx_gemma4_assist.server.exchange import Finished, FinishReason, Piece, Started, TokenInfo, Usage
from mlx_gemma4_assist.server.reply import Reply
from mlx_gemma4_assist.server.spans import Sources, Span
from mlx_gemma4_assist.text.turn_reader import TurnReader

OPEN, CLOSE = "<|channel>", "<channel|>"


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return chat_processor(tmp_path_factory.mktemp("chat"))


def played(processor, ids, draw, *, prompt=(), stop=()):
    """All pieces of a reply of these tokens, in rounds of one to four, of which each token is a draft of its own."""
    reader, reply = TurnReader(processor, prompt, stop=stop), Reply(lambda reply: None)
    reply._take(Started(1, 0))
    place = 0
    while place < len(ids) and not reader.ended:
        some = range(place, min(len(ids), place + draw.randint(1, 4)))
        deltas, infos = [], []
        for number in some:
            infos.append(TokenInfo(ids[number], processor.decode([ids[number]], False), number + 1))
            deltas += reader.add([ids[number]])
            if reader.ended:
                break
        place = some.stop
        if place == len(ids):
            deltas += reader.finish()
        reply._take(Piece(0, tuple(joined(deltas)), tuple(infos)))
    reply._take(Finished(0, FinishReason.STOP, None, Usage()))
    return list(reply)


def by_token(pieces, channel):
    """The text of each token that is shown in a channel."""
    found = {}
    for piece in pieces:
        for span in piece.spans:
            if piece.channel == channel:
                found[span.draft] = found.get(span.draft, "") + span.text
    return found


def check_whole(pieces):
    for piece in pieces:
        assert "".join(span.text for span in piece.spans) == piece.text


class Stream:
    """A turn that is made up, and what of it should be shown, by token."""

    def __init__(self, processor, draw):
        self.ids, self.wanted = [], {"answer": {}, "thought": {}}
        self._processor, self._draw = processor, draw
        special = set(processor.control.ids.values())
        words = range(len(special), processor.tokenizer.backend_tokenizer.get_vocab_size())
        self._letters = [i for i in words if processor.decode([i]) not in ("", "\ufffd") and i not in special]
        token_id = processor.tokenizer.backend_tokenizer.token_to_id
        self._letters = [i for i in self._letters if i not in {token_id(f"<0x{byte:02X}>") for byte in range(256)}]

    def text(self, size):
        """Tokens, each with its text; characters of several bytes have theirs at the last one."""
        found = []
        for _ in range(self._draw.randrange(size)):
            kind = self._draw.random()
            if kind < 0.75:
                token = self._draw.choice(self._letters)
                found.append((token, self._processor.decode([token])))
            else:
                found += self._bytes(self._draw.choice("é日🐈ß"), cut=kind > 0.95)
        return found

    def _bytes(self, character, cut):
        whole = character.encode()
        ids = [self._processor.tokenizer.backend_tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in whole]
        if cut:  # with letters around it, so that only this character is broken
            letter = self._letters[0]
            around = (letter, self._processor.decode([letter]))
            return [around, *((i, "\ufffd") for i in ids[:-1]), around]
        return [*((i, "") for i in ids[:-1]), (ids[-1], character)]

    def show(self, tokens, channel, end=None):
        """Tokens of which the text up to ``end`` is shown."""
        for token, text in tokens:
            self.ids.append(token)
            shown = text if end is None else text[:end]
            if shown:
                self.wanted[channel][len(self.ids)] = shown
            end = None if end is None else max(0, end - len(text))

    def hide(self, text):
        self.ids += self._processor.tokenize(text)

    def answer(self):
        tokens = self.text(8)
        self.show([*tokens, (self._letters[0], self._processor.decode([self._letters[0]]))], "answer")

    def thought(self):
        self.hide(f"{OPEN}thought\n")
        tokens = self.text(8)
        whole = "".join(text for _, text in tokens)
        end = len(whole.removesuffix("\n")) if whole.strip() else 0
        self.show(tokens, "thought", end)
        self.hide(CLOSE)

    def named(self):
        """A channel of another name is answer."""
        self.ids += self._processor.tokenize(OPEN)
        ids = self._processor.tokenize("other\n")
        self.show([(i, self._processor.decode([i])) for i in ids], "answer")
        self.hide(CLOSE)

    def call(self):
        self.hide('<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>')

    def malformed_call(self):
        ids = self._processor.tokenize("<|tool_call>hello<tool_call|>")
        self.show([(i, self._processor.decode([i], False)) for i in ids], "answer")


@pytest.mark.parametrize("seed", range(150))
def test_random_turns(processor, seed):
    """Every token has exactly the text that it brought."""
    draw = random.Random(seed)
    stream = Stream(processor, draw)
    for _ in range(draw.randrange(1, 6)):
        draw.choice((stream.answer, stream.answer, stream.thought, stream.named, stream.call, stream.malformed_call))()
    pieces = played(processor, [*stream.ids, processor.tokenize("<turn|>")[0]], draw)
    check_whole(pieces)
    for channel in ("answer", "thought"):
        assert by_token(pieces, channel) == stream.wanted[channel]


@pytest.mark.parametrize("seed", range(150))
def test_random_tokens(processor, seed):
    """Of which most make no sense, with stop strings, behind any prompt: the spans are the text all the same."""
    draw = random.Random(seed)
    size = processor.tokenizer.backend_tokenizer.get_vocab_size()
    ids = [draw.randrange(3, size) if draw.random() < 0.8 else draw.randrange(6, 20) for _ in range(40)]
    prompt = processor.tokenize(draw.choice(("<|turn>model\n", f"<|turn>model\n{OPEN}thought\n", f"{OPEN}th")))
    stop = draw.choice(((), ("a",), ("he", "ll"), ("\ufffd\ufffd",)))
    check_whole(played(processor, ids, draw, prompt=prompt, stop=stop))


def spans_of(processor, text, *, prompt="", stop=()):
    ids = processor.tokenize(text)
    pieces = played(processor, ids, random.Random(1), prompt=processor.tokenize(prompt), stop=stop)
    check_whole(pieces)
    shown = {n: processor.decode([token], False) for n, token in enumerate(ids, 1)}
    return [(piece.channel, shown[span.draft], span.text) for piece in pieces for span in piece.spans]


def test_a_thought_that_the_prompt_has_opened(processor):
    found = spans_of(processor, f"he{CLOSE}hello", prompt=f"<|turn>model\n{OPEN}thought\n")
    assert found == [("thought", "he", "he"), ("answer", "hello", "hello")]


def test_a_thought_that_speaks_of_thoughts(processor):
    found = spans_of(processor, f"{OPEN}thought\nthought\n\n{CLOSE}\nhe")
    assert "".join(text for channel, _, text in found if channel == "thought") == "thought\n"
    assert [each for each in found if each[0] == "answer"] == [("answer", "\n", "\n"), ("answer", "he", "he")]


def test_a_stop_string_cuts_a_token(processor):
    found = spans_of(processor, "a hell", stop=("ll",))
    assert found[-1] == ("answer", "hell", "he")


def test_tokens_of_other_servers_need_not_fit():
    """Blanks that were trimmed, tokens that are not told: the text is whole, and what fits is found again."""
    sources = Sources()
    sources.take([TokenInfo(0, "Hello", 1), TokenInfo(1, " world", 2), TokenInfo(2, "!", 0)])
    assert sources.spans(" Hello", thought=False) == (Span(" Hello", 1),)
    assert sources.spans("?? world!", thought=False) == (Span("?? world", 2), Span("!", 0))
    assert sources.spans("more", thought=False) == (Span("more", 0),)
    assert Sources().spans("x", thought=True) == (Span("x", 0),)
