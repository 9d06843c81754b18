"""How likely each draft of a round is accepted, learned from counts.

``a1 + a1 a2 + ... + a1...ak`` drafts of k are accepted on average, where ``ai`` is the chance that draft i stands once
the drafts before it stood (Leviathan et al. 2023, equation 1, there with one chance for all). The chances are learned
as logits, so that a text that is easier to guess moves all of them.
"""

from collections.abc import Sequence
from copy import copy
from math import exp, log, sqrt

from .curve import DriftingCurve

# Deviations are of logits.
ACCEPTANCE = 0.6  # before anything is known: enough to try one draft first, not many
ACCEPTANCE_LEVEL = 1.5  # of all positions together
ACCEPTANCE_BEND = 0.39  # from one position to the next
ACCEPTANCE_FORGETTING = 2.5e-3  # per round
ACCEPTANCE_HOPE = 1.0  # deviations by which it may be better than believed
LEAST_SPREAD = 0.02  # of a draft's outcome

LEARNED_SINGLY = 16  # rounds of a text with drafts, each of which is learned from by itself;
LEARNED_TOGETHER = 4  # of later ones so many together: a round's time is short


class Acceptance:
    """The chance of each position: at first one for all, uncertain, which may change from one to the next.

    Args:
        longest: the most drafts of a round.
        forget_every: rounds from one call of ``forget`` to the next.
    """

    def __init__(self, longest: int, forget_every: int):
        places = range(longest)
        covariance = [[ACCEPTANCE_LEVEL**2 + ACCEPTANCE_BEND**2 * min(i, j) for j in places] for i in places]
        mean = [log(ACCEPTANCE / (1 - ACCEPTANCE))] * longest
        self._curve = DriftingCurve(mean, covariance, ACCEPTANCE_FORGETTING * forget_every)
        self._rounds = 0
        self._stood, self._reached = [0] * longest, [0] * longest  # in rounds that were not learned from yet

    def copy(self) -> "Acceptance":
        """One that knows as much, and learns by itself."""
        other = copy(self)
        other._curve = self._curve.copy()
        other._stood, other._reached = list(self._stood), list(self._reached)
        return other

    def observe_round(self, drafted: int, accepted: Sequence[int]) -> bool:
        """A round of one or more drafts was read, in which texts accepted so many.

        Returns whether that changed what is expected: later rounds of a text are learned from together.
        """
        for at in range(min(drafted, len(self._stood))):
            self._reached[at] += sum(count >= at for count in accepted)
            self._stood[at] += sum(count > at for count in accepted)
        self._rounds += 1
        if self._rounds > LEARNED_SINGLY and self._rounds % LEARNED_TOGETHER:
            return False
        for at, (stood, reached) in enumerate(zip(self._stood, self._reached, strict=True)):
            if reached:
                self.observe(at, stood / reached, reached)
                self._stood[at] = self._reached[at] = 0
        return True

    def observe(self, at: int, rate: float, drafts: float) -> None:
        """Of so many drafts at a position this share stood: one step of logistic regression, by the filter's rule.

        Near 0 and 1 single drafts say little about a logit; the bound keeps one draft from moving it too far.
        """
        chance = _chance(self._curve.mean[at])
        spread = max(chance * (1 - chance), LEAST_SPREAD)
        self._curve.observe(at, (rate - chance) / spread, 1 / (drafts * spread))

    def forget(self) -> None:
        """Time passes."""
        self._curve.forget()

    def tokens(self) -> list[float]:
        """Expected tokens of a round with 0, 1, ... drafts."""
        return _tokens([_chance(logit) for logit in self._curve.mean])

    def hoped_tokens(self, best: int) -> list[float]:
        """As many as there may be, where rounds of ``best`` drafts are the rule.

        What they reach is known. What lies behind may be better by what is uncertain about it; where none are drafted,
        all may stand.
        """
        if best == 0:
            return [1.0 + drafts for drafts in range(len(self._curve.mean) + 1)]
        known = self._curve.mean[:best]
        behind = enumerate(self._curve.mean[best:], start=best)
        return _tokens(
            [_chance(logit) for logit in known]
            + [_chance(logit + ACCEPTANCE_HOPE * sqrt(self._curve.variance(at))) for at, logit in behind]
        )


def _chance(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def _tokens(chances: list[float]) -> list[float]:
    tokens, all_stand = [1.0], 1.0
    for chance in chances:
        all_stand *= chance
        tokens.append(tokens[-1] + all_stand)
    return tokens
