"""What an engine is asked for, and what it tells of it: token ids in, token ids out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..cache.soft_tokens import MediaPrompt
from ..errors import InputError, OptionError, described
from ..models.config import Gemma4TextConfig
from ..options import GenerationOptions
from .guiding import Constraint
from .loop import LogProbs


@dataclass(frozen=True)
class Request:
    """A prompt, and how it is to be continued.

    Attributes:
        prompt: token ids, soft tokens of pictures and sound among them.
        options: how the text is generated; its stop strings are for whoever turns tokens into text.
        stop_tokens: any of these ends the text.
        suppress_tokens: ids that are never generated.
        points: positions of the prompt where later ones may part from it: where turns begin.
        left_out: ids with which something begins that later prompts leave out, such as thoughts.
        constraint: makes what holds the text, at its beginning; None lets any token come.
        prediction: tokens that the text is likely to repeat: they are drafts where it does.
        answer_begins: ids behind which that may begin anew, such as the one that ends a thought.
        priority: who waits begins before those of a lower one, and after those of the same that came earlier. Nobody
            has to make room for it. As long as higher ones keep coming, a lower one waits.
    """

    prompt: MediaPrompt
    options: GenerationOptions = field(default_factory=GenerationOptions)
    stop_tokens: frozenset[int] = frozenset()
    suppress_tokens: tuple[int, ...] = ()
    points: tuple[int, ...] = ()
    left_out: frozenset[int] = frozenset()
    constraint: Callable[[], Constraint] | None = None
    prediction: tuple[int, ...] = ()
    answer_begins: frozenset[int] = frozenset()
    priority: int = 0

    def check(self, config: Gemma4TextConfig) -> None:
        """Refuse what the network could not read or must not index.

        Raises:
            InputError: an empty prompt, one longer than the context, ids beyond the vocabulary, soft tokens that do
                not fit; a grammar without a token that ends the text; a priority that is no integer.
        """
        check_tokens(self.prompt.tokens, config)
        if self.options.grammar is not None and self.constraint is None:
            raise OptionError(f"{{{self.options.grammar[0]}}} holds text, but the request has token ids only")
        if self.constraint is not None and not self.stop_tokens:
            raise InputError("a grammar needs a token that ends the text, and the checkpoint names none")
        last = config.vocab_size - 1
        for name, ids in (("suppress_tokens", self.suppress_tokens), ("prediction", self.prediction)):
            outside = next((token for token in ids if not 0 <= token <= last), None)
            if outside is not None:
                raise InputError(f"{name} has the id {outside}, but the model's vocabulary ends at {last}")
        check_biases(self.options, config)
        self.prompt.check()
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise InputError(f"the priority is {described(self.priority)}, expected an integer")

    def budget(self, config: Gemma4TextConfig) -> int:
        """How many tokens may follow: what was asked for, as far as the context reaches."""
        return min(self.options.max_tokens, config.max_position_embeddings - len(self.prompt.tokens))


def check_biases(options: GenerationOptions, config: Gemma4TextConfig) -> None:
    """Refuse biases of what the target cannot say.

    Raises:
        OptionError: an id beyond the vocabulary.
    """
    last = config.vocab_size - 1
    outside = next((token for token, _ in options.logit_bias if token > last), None)
    if outside is not None:
        sentence = "{logit_bias} has the id {id}, but the model's vocabulary ends at {last}"
        raise OptionError(sentence, id=outside, last=last)


def check_tokens(tokens: Sequence[int], config: Gemma4TextConfig) -> None:
    """Refuse a prompt that the network could not read.

    Args:
        tokens: ids, those of placeholders included.
        config: of the target.

    Raises:
        InputError: no tokens, more than the context has, ids beyond the vocabulary.
    """
    last = config.vocab_size - 1
    if not tokens:
        raise InputError("the prompt is empty")
    outside = next((token for token in tokens if not 0 <= token <= last), None)
    if outside is not None:
        raise InputError(f"the prompt has the token id {outside}, but the model's vocabulary ends at {last}")
    if len(tokens) >= config.max_position_embeddings:
        raise InputError(
            f"the prompt has {len(tokens)} tokens, but the model's context is {config.max_position_embeddings}"
        )


class TokenEvent(NamedTuple):
    """What one round gave a request.

    Attributes:
        tokens: ids, up to a stop token (which is among them) or the last that was asked for.
        accepted: how many of the round's tokens were drafts; those are the first.
        drafted: how many drafts the round made.
        finish_reason: with the last tokens "stop" (a stop token) or "length"; None before.
        log_probs: of each token, if asked for; empty otherwise.
    """

    tokens: list[int]
    accepted: int
    drafted: int
    finish_reason: str | None
    log_probs: Sequence[LogProbs] = ()
