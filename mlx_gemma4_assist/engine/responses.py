"""Token events to text: pieces of text as soon as they are known, stop strings, counts and times."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import mlx.core as mx

from ..text.channels import Channel, ChannelText, Piece
from .loop import LogProbs
from .request import TokenEvent
from .run import Run


@dataclass
class SpeculationStats:
    """What drafting gave, so far.

    Attributes:
        rounds: forwards of the target after the prompt.
        drafted: tokens proposed by the assistant.
        accepted: of these, how many stood.
        accepted_at: for each place in a round, how often the draft there stood.
        drafted_at: for each place in a round, how often there was a draft.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_at: list[int] = field(default_factory=list)
    drafted_at: list[int] = field(default_factory=list)

    def add(self, drafted: int, accepted: int) -> None:
        """Count one round."""
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted
        missing = drafted - len(self.drafted_at)
        self.drafted_at += [0] * missing
        self.accepted_at += [0] * missing
        for place in range(drafted):
            self.drafted_at[place] += 1
            self.accepted_at[place] += place < accepted

    @property
    def acceptance_rate(self) -> float:
        """Accepted over drafted, 0 where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass
class GenerationResponse:
    """One token, with mlx-lm's fields.

    Attributes:
        text: the next piece of text, possibly empty: characters and stop strings are never split.
        token: the token's id.
        from_draft: whether the assistant proposed it.
        prompt_tokens: how many tokens the prompt has.
        prompt_tps: prompt tokens computed per second, up to the first token.
        generation_tokens: how many tokens have been generated.
        generation_tps: of these, how many per second, from the first token on.
        peak_memory: MLX's peak memory in GB.
        finish_reason: on the last response "stop" (a stop token or stop string) or "length", None before.
        stats: of drafting; one object, final on the last response.
        channel: what the text is: "answer", "thought" or "tool_call". Models without such channels only answer.
        logprob: the token's log-probability, where ``top_logprobs`` asks for it: what the target says after penalties
            and biases, before temperature and filters.
        top_logprobs: (id, log-probability) of the likeliest tokens in its place, in falling order.
        cached_tokens: how many of the prompt's tokens were not computed, since a cache had them.
    """

    text: str
    token: int
    from_draft: bool
    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    peak_memory: float
    finish_reason: str | None
    stats: SpeculationStats
    channel: Channel = Channel.ANSWER
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] | None = None
    cached_tokens: int = 0


def responses(run: Run, text: ChannelText) -> Generator[GenerationResponse, None, None]:
    """A run's tokens with their text, up to a stop string; closes the run at the end."""
    reporter = _Reporter(run, text)
    try:
        for event in run:
            yield from reporter.report(event)
            if reporter.finish_reason is not None:
                return
    finally:
        run.close()


class BatchedText:
    """The responses of one of several runs of an engine, fetched as they come.

    Args:
        run: takes part in the engine's work from now on.
        text: of its tokens.

    Attributes:
        finish_reason: of the last response.
    """

    def __init__(self, run: Run, text: ChannelText):
        self._run = run
        self._reporter = _Reporter(run, text)
        run.begin()

    @property
    def finish_reason(self) -> str | None:
        return self._reporter.finish_reason

    def take(self) -> Iterator[GenerationResponse]:
        """What has come since, up to the end; then the run is closed. Nothing is computed.

        Raises:
            RuntimeError: the engine failed.
        """
        while self._run.ready and self.finish_reason is None:
            yield from self._reporter.report(next(iter(self._run)))
        if self.finish_reason is not None:
            self._run.close()

    def close(self) -> None:
        """No more is wanted."""
        self._run.close()


class _Reporter:
    """The responses of one run.

    Attributes:
        finish_reason: of the last response.
    """

    def __init__(self, run: Run, text: ChannelText):
        self.finish_reason: str | None = None
        self._run = run
        self._text = text
        self._stats = SpeculationStats()
        self._generated = 0
        self._started = time.perf_counter()
        self._first: float | None = None

    def report(self, event: TokenEvent) -> Iterator[GenerationResponse]:
        """The responses of one round, up to a stop."""
        if self._first is None:
            self._first = time.perf_counter()
        self._stats.add(event.drafted, event.accepted)
        for place, token in enumerate(event.tokens):
            self._generated += 1
            self._run.kept = self._generated  # whoever stops iterating here has seen so many
            last = place == len(event.tokens) - 1
            piece = self._piece(token, event.finish_reason if last else None)
            log_probs = event.log_probs[place] if event.log_probs else None
            yield self._response(piece, token, place < event.accepted, log_probs)
            if self.finish_reason is not None:
                return

    def _piece(self, token: int, finish_reason: str | None) -> Piece:
        """The text that a token finishes; sets ``finish_reason`` at the last."""
        piece = Piece("") if finish_reason == "stop" else self._text.add(token)
        if finish_reason is not None and not self._text.stopped:
            rest = self._text.finish()
            piece = Piece(piece.text + rest.text, piece.channel) if piece.text else rest
        self.finish_reason = "stop" if self._text.stopped else finish_reason
        return piece

    def _response(self, piece: Piece, token: int, from_draft: bool, log_probs: LogProbs | None) -> GenerationResponse:
        first = self._first or self._started
        spent = time.perf_counter() - first
        return GenerationResponse(
            text=piece.text,
            token=token,
            from_draft=from_draft,
            prompt_tokens=len(self._run.prompt),
            prompt_tps=self._run.to_compute / (first - self._started),
            generation_tokens=self._generated,
            generation_tps=(self._generated - 1) / spent if self._generated > 1 and spent > 0 else 0.0,
            peak_memory=mx.get_peak_memory() / 1e9,
            finish_reason=self.finish_reason,
            stats=self._stats,
            channel=piece.channel,
            logprob=None if log_probs is None else log_probs.own,
            top_logprobs=None if log_probs is None else log_probs.likeliest,
            cached_tokens=self._run.cached_tokens,
        )
