"""One of the programs to compare, as a process that answers many prompts at once. ``compare_batches.py`` starts it.

The programs and their weights are those of ``peers.py``; token ids go in and come out, all decode greedily and without
stops. Prompts are handed over as they arrive.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peers import AUTO, MLX_LM, MLX_VLM, OURS, MlxLm, MlxVlm, Ours, Settings, versions
from workers import Answer, serve


@dataclass(frozen=True)
class Question:
    """Texts to generate together.

    Attributes:
        prompts: token ids.
        arrivals: for each, the seconds after which it is there, in rising order.
        max_tokens: of each text.
        drafts: in a round: 0, a number, or ``auto`` where they are learned.
        compiled: whether this package's rounds are; None where that is the default.
    """

    prompts: list[list[int]]
    arrivals: list[float]
    max_tokens: int
    drafts: int | str
    compiled: bool | None = None


class Timetable:
    """When prompts arrive, and when their tokens come."""

    def __init__(self, question: Question):
        self._question = question
        self._tokens: list[list[int]] = [[] for _ in question.prompts]
        self._seconds: list[list[float]] = [[] for _ in question.prompts]
        self._asked = self._ended = 0
        self._begin = time.perf_counter()

    def arrived(self) -> list[int]:
        """The rows whose prompts have arrived since this was last asked."""
        arrivals, first, now = self._question.arrivals, self._asked, time.perf_counter() - self._begin
        while self._asked < len(arrivals) and arrivals[self._asked] <= now:
            self._asked += 1
        return list(range(first, self._asked))

    def wait(self) -> None:
        """Sleep until the next prompt arrives, with nothing to do."""
        if self._asked < len(self._question.arrivals):
            time.sleep(max(0.0, self._question.arrivals[self._asked] - (time.perf_counter() - self._begin)))

    def add(self, row: int, tokens: Sequence[int], ended: bool) -> None:
        """Tokens of a row have come together, its last among them if it has ended.

        Raises:
            ValueError: it has ended too early.
        """
        now = time.perf_counter() - self._begin
        self._tokens[row] += tokens
        self._seconds[row] += [now] * len(tokens)
        self._ended += ended
        if ended and len(self._tokens[row]) != self._question.max_tokens:
            raise ValueError(f"a text has {len(self._tokens[row])} tokens instead of {self._question.max_tokens}")

    @property
    def complete(self) -> bool:
        """Whether all texts have ended."""
        return self._ended == len(self._tokens)

    def result(self, peak_memory: float) -> dict[str, Any]:
        """Of each row its tokens and the second that each came, after the beginning; peak memory in bytes."""
        return {"tokens": self._tokens, "seconds": self._seconds, "peak_memory": peak_memory}


class OurBatches(Ours):
    """An engine for each way of drafting, which goes on learning from question to question. No way begins with what
    another has read. Prompts that are all there at once are read as ``batch_generate`` reads them, others as a server
    does."""

    def __init__(self, settings: Settings, chain: Sequence[int]):
        super().__init__(settings)
        self._assistant_of_all = self._chained(chain) if chain else self._real
        self._engines: dict[tuple[int | str, bool], Any] = {}

    def _chained(self, chain: Sequence[int]) -> Any:
        from oracle import ChainOracle, followers

        settings, vocabulary = self._settings, self._target.config.vocab_size
        drafts = followers(chain, vocabulary, settings.acceptance, settings.seed)
        return ChainOracle(self._real, self._target.embed, chain, drafts)

    def answer(self, question: Question) -> dict[str, Any]:
        import mlx.core as mx

        from mlx_gemma4_assist import GenerationOptions
        from mlx_gemma4_assist.backend import wired_limit

        drafts = None if question.drafts in (0, AUTO) else question.drafts
        options = GenerationOptions(
            max_tokens=question.max_tokens, num_assistant_tokens=drafts, compile=question.compiled
        )
        mx.reset_peak_memory()
        with wired_limit():
            times = self._run(self._engine(question.drafts, not any(question.arrivals)), question, options)
        mx.synchronize()
        return times.result(mx.get_peak_memory())

    def _engine(self, drafts: int | str, at_once: bool) -> Any:
        from mlx_gemma4_assist import Pair
        from mlx_gemma4_assist.engine.engine import Engine
        from mlx_gemma4_assist.engine.scheduler import MAX_STALL

        if (drafts, at_once) not in self._engines:
            pair = Pair(self._target, self._assistant_of_all if drafts else None)
            self._engines[drafts, at_once] = Engine(pair, max_stall=None if at_once else MAX_STALL)
        return self._engines[drafts, at_once]

    def _run(self, engine: Any, question: Question, options: Any) -> Timetable:
        from mlx_gemma4_assist import MediaPrompt
        from mlx_gemma4_assist.engine.request import Request

        times, runs = Timetable(question), {}
        try:
            while not times.complete:
                for row in times.arrived():
                    runs[row] = engine.run(Request(MediaPrompt(question.prompts[row]), options))
                    runs[row].begin()
                if not runs:
                    times.wait()
                    continue
                engine.scheduler.step()
                for row in [row for row, run in runs.items() if run.ready]:
                    _take(times, row, runs)
        finally:
            for run in runs.values():
                run.close()
        return times


def _take(times: Timetable, row: int, runs: dict[int, Any]) -> None:
    """What a run of this package has ready; its end closes it."""
    while row in runs and runs[row].ready:
        event = next(iter(runs[row]))
        ended = event.finish_reason is not None
        times.add(row, event.tokens, ended)
        if ended:
            runs.pop(row).close()


class MlxLmBatches(MlxLm):
    """``BatchGenerator``, which lets prompts join."""

    def answer(self, question: Question) -> dict[str, Any]:
        import mlx.core as mx
        from mlx_lm.generate import BatchGenerator

        mx.reset_peak_memory()
        generator = BatchGenerator(self._model, max_tokens=question.max_tokens)
        times = generated(question, lambda prompt: generator.insert([prompt]), generator.next)
        generator.close()
        mx.synchronize()
        return times.result(mx.get_peak_memory())


class MlxVlmBatches(MlxVlm):
    """``BatchGenerator`` with and without its drafter; a drafted batch admits nobody while it runs."""

    def __init__(self, settings: Settings, chain: Sequence[int]):
        super().__init__(settings)
        if chain:
            from oracle import draft_along_chain, followers

            vocabulary = self._model.config.text_config.vocab_size
            draft_along_chain(self._drafter, followers(chain, vocabulary, settings.acceptance, settings.seed))

    def answer(self, question: Question) -> dict[str, Any]:
        import mlx.core as mx
        from mlx_vlm.generate.ar import BatchGenerator

        options: dict[str, Any] = {}
        if question.drafts:
            options |= {"draft_model": self._drafter, "draft_kind": "mtp", "draft_block_size": question.drafts + 1}
        mx.reset_peak_memory()
        generator = BatchGenerator(
            self._model.language_model, Unstopped(), max_tokens=question.max_tokens, compute_logprobs=False, **options
        )

        def insert(prompt: list[int]) -> Sequence[int]:
            embedded = self._model.get_input_embeddings(mx.array([prompt]), None).to_dict()
            return generator.insert([prompt], question.max_tokens, prompt_kwargs=[embedded])

        times = generated(question, insert, generator.next)
        generator.close()
        mx.synchronize()
        return times.result(mx.get_peak_memory())


class Unstopped:
    """What mlx-vlm asks of a tokenizer: which tokens end a text. None does."""

    @property
    def stopping_criteria(self) -> "Unstopped":
        return self

    def add_eos_token_ids(self, tokens: object) -> None:
        """There are none."""

    def __call__(self, token: int) -> bool:
        return False


def generated(
    question: Question, insert: Callable[[list[int]], Sequence[int]], step: Callable[[], tuple[Any, Any]]
) -> Timetable:
    """What a generator of mlx-lm's kind makes of it: ``insert`` gives a prompt's id, ``step`` responses with ids."""
    times, rows = Timetable(question), {}
    while not times.complete:
        for row in times.arrived():
            rows[insert(question.prompts[row])[0]] = row
        if not rows:
            times.wait()
            continue
        _, responses = step()
        for uid in dict.fromkeys(response.uid for response in responses):
            own = [response for response in responses if response.uid == uid]
            tokens = [response.token for response in own if response.token is not None]
            ended = any(response.finish_reason is not None for response in own)
            times.add(rows.pop(uid) if ended else rows[uid], tokens, ended)
    return times


ENGINES: dict[str, Callable[[Settings, Sequence[int]], Any]] = {
    OURS: OurBatches,
    MLX_LM: lambda settings, _: MlxLmBatches(settings),
    MLX_VLM: MlxVlmBatches,
}


def work(name: str, settings: Settings, chain: Sequence[int]) -> None:
    """Answer questions until there are no more."""

    def start() -> tuple[dict[str, Any], Answer]:
        engine = ENGINES[name](settings, chain)
        return {"versions": versions(engine)}, lambda question: engine.answer(Question(**question))

    serve(start)


if __name__ == "__main__":
    work(sys.argv[1], Settings(**json.loads(sys.argv[2])), json.loads(sys.argv[3]))
