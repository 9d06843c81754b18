"""A chat in the terminal, in the manner of mlx-lm's: answers as they are made, and one cache for the conversation."""

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from select import select
from types import FrameType
from typing import Any

from ..api import stream_on
from ..cache.quantization import kv_quantization
from ..engine.engine import Engine
from ..engine.learning import Memory
from ..engine.pair import Pair
from ..engine.responses import GenerationResponse, SpeculationStats
from ..engine.session import Conversation
from ..errors import InputError
from ..options import GenerationOptions
from .loading import cut_off
from .screen import Screen
from .streams import has_styles, note

HELP = """\
q       leave (Ctrl-D too)
r       reset: begin a new conversation
h       help
/undo   take back the last message and its answer
/stats  what the conversation took so far
A line that ends in \\ goes on in the next one. Ctrl-C stops an answer."""


@dataclass
class Totals:
    """Of all answers since the chat began."""

    answers: int = 0
    tokens: int = 0
    stats: SpeculationStats = field(default_factory=SpeculationStats)

    def add(self, last: GenerationResponse) -> None:
        self.answers += 1
        self.tokens += last.generation_tokens
        self.stats.rounds += last.stats.rounds
        self.stats.drafted += last.stats.drafted
        self.stats.accepted += last.stats.accepted


class Stopped(Exception):
    """Ctrl-C, at a moment when nothing is half done."""


class CtrlC:
    """While it is entered, Ctrl-C is only taken note of; pressed again it interrupts at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> "CtrlC":
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


class Chat:
    """A conversation between a person at a terminal and a model.

    Args:
        pair: who answers.
        options: how answers are generated.
        conversation: what has been said, mostly nothing yet.
        show_thinking: whether thoughts and calls of tools are printed, too.
        read: asks for a line, as ``input`` does.
        memory: where learned draft lengths are kept.

    Raises:
        InputError: the options do not fit the pair.
    """

    def __init__(
        self,
        pair: Pair,
        options: GenerationOptions,
        conversation: Conversation,
        *,
        show_thinking: bool = False,
        read: Callable[[str], str] = input,
        memory: Memory | None = None,
    ):
        self.conversation = conversation
        self.totals = Totals()
        self._pair = pair
        self._options = options
        self._read = read
        self._memory = memory
        self._show_thinking = show_thinking
        self._terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._begin_anew()

    def run(self) -> None:
        """Read, answer, and so on, until the person leaves."""
        self._say(HELP)
        while (message := self._message()) is not None:
            command = message.strip()
            if command == "q":
                return
            if command in ("r", "h", "/undo", "/stats"):
                self._command(command)
            elif command:
                self.answer(message)

    def answer(self, message: str) -> None:
        """Print an answer as it is made, and a line of statistics; what is wrong with the message if anything is."""
        try:
            prompt = self.conversation.prompt(message)
            made, computed = self._generate(prompt)
        except InputError as error:
            self._say(f"error: {error}. r begins anew, /undo takes back the last exchange.")
            return
        if not made:
            self._say("Nothing was answered; the message is taken back.")
            return
        self.conversation.record(prompt, [response.token for response in made])
        if len(self.conversation.tokens) < len(prompt) + len(made):  # thoughts: what is behind them has other keys now
            with suppress(InputError):  # the context is full
                self._engine.read_ahead(self.conversation.tokens, self._cache.layout.quantization)
        self.totals.add(made[-1])
        print()
        context = self._pair.target.config.max_position_embeddings
        self._say(_statistics(made[-1], computed, context, self._options.max_tokens))

    def _generate(self, prompt: list[int]) -> tuple[list[GenerationResponse], int]:
        """What was made, perhaps cut off by Ctrl-C, and how many tokens of the prompt had to be computed for it."""
        made: list[GenerationResponse] = []
        screen = Screen(self._show_thinking)
        computed = 0

        def progress(done: int, total: int) -> None:
            nonlocal computed
            computed = total + 1  # the last token of a prompt is left to the first round
            if ctrl_c.pressed:
                raise Stopped

        with CtrlC() as ctrl_c:
            responses = stream_on(
                self._engine, prompt, self._options, prompt_cache=self._cache, prompt_progress_callback=progress
            )
            try:
                for response in responses:
                    made.append(response)
                    screen.show(response)
                    if ctrl_c.pressed:
                        break
                responses.close()
            except Stopped:
                pass
            except KeyboardInterrupt:  # pressed twice: it may have struck anywhere
                self._begin_anew()
        return made, computed

    def work_ahead(self, typed: Callable[[], bool] = lambda: bool(select([sys.stdin], [], [], 0)[0])) -> None:
        """Read what the next prompt begins with, until there is no more of it or the person has typed something."""
        while not typed() and self._engine.idle():
            pass

    def _begin_anew(self) -> None:
        """Nothing of what was computed before is used any longer."""
        self._engine = Engine(self._pair, self._memory)
        quantization = kv_quantization(self._options, self._pair.target.config)
        self._cache = self._engine.new_cache(self._options.num_assistant_tokens, quantization)

    def _message(self) -> str | None:
        """The next message, of one line or several; None if there is no more."""
        lines: list[str] = []
        while True:
            try:
                line = self._read((".. " if lines else ">> ") if self._terminal else "")
            except EOFError:
                self._say("")
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                self._say("\nq or Ctrl-D leaves.")
                lines = []
                continue
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _command(self, name: str) -> None:
        if name == "r":
            self.conversation.reset()
            self._cache.reset()
            self._say("A new conversation.")
        elif name == "/undo":
            done = self.conversation.undo()
            self._say("The last exchange is taken back." if done else "There is nothing to take back.")
        elif name == "/stats":
            self._say(self._session())
        else:
            self._say(HELP)

    def _session(self) -> str:
        totals, context = self.totals, self._pair.target.config.max_position_embeddings
        lines = [
            f"{totals.answers} answers, {totals.tokens:,} tokens{_drafting(totals.tokens, totals.stats)}",
            f"Context: {len(self.conversation.tokens):,} of {context:,} tokens, "
            f"{(self._cache.nbytes + self._engine.prefix.nbytes) / 1e6:,.1f} MB of keys and values",
        ]
        return "\n".join(lines)

    def _say(self, text: str) -> None:
        """To the person, not part of the conversation: dim, on standard error."""
        note(f"\033[2m{text}\033[0m" if text and has_styles(sys.stderr) else text)


def _statistics(last: GenerationResponse, computed: int, context: int, max_tokens: int) -> str:
    """One line on an answer."""
    why = "stopped" if last.finish_reason is None else cut_off(last, context, max_tokens)
    cut = f"; {why}" if why else ""
    return (
        f"[{last.generation_tokens} tokens, {last.generation_tps:.1f} per second"
        f"{_drafting(last.generation_tokens, last.stats)}; {computed} of {last.prompt_tokens} prompt tokens computed, "
        f"{last.prompt_tps:.1f} per second; peak {last.peak_memory:.2f} GB{cut}]"
    )


def _drafting(tokens: int, stats: SpeculationStats) -> str:
    if not stats.drafted:
        return ""
    return f", {tokens / stats.rounds:.2f} per round, {stats.acceptance_rate:.0%} of drafts accepted"
