"""Covering arrays: few combinations of options in which every two values meet that may."""

from collections.abc import Callable, Mapping, Set

Value = tuple[str, int]
"""An option, and which of its values."""
Row = dict[str, int]
Pair = frozenset[Value]


def anything(one: Value, other: Value) -> bool:
    return True


class Covering:
    """Rows in which every pair of values is that may be (greedily chosen).

    Attributes:
        rows: one value of each option, options in their order.

    Args:
        counts: how many values each option has; the first ones are preferred.
        allowed: whether two values may meet.
    """

    def __init__(self, counts: Mapping[str, int], allowed: Callable[[Value, Value], bool] = anything):
        self._counts = counts
        every = [(name, value) for name, count in counts.items() for value in range(count)]
        self._excluded = {
            one: {other for other in every if one[0] != other[0] and not allowed(one, other)} for one in every
        }
        ordered = [
            frozenset((one, other))
            for place, one in enumerate(every)
            for other in every[place + 1 :]
            if one[0] != other[0] and other not in self._excluded[one]
        ]
        self.rows: list[Row] = []
        wanted = set(ordered)
        for pair in ordered:
            if pair in wanted:
                wanted.remove(pair)
                row = self.completed(pair, wanted)
                if row is not None:  # a third option excludes the others
                    wanted -= pairs_of(row)
                    self.rows.append(row)

    def completed(self, chosen: Set[Value], wanted: Set[Pair] = frozenset()) -> Row | None:
        """A row with some values; the others try the most of what is wanted. None: there is no such row.

        What is chosen need not go together, but all else has to.
        """
        found = dict(chosen)
        excluded = {other for value in chosen for other in self._excluded[value]}
        candidates = {
            name: [value for value in range(count) if (name, value) not in excluded]
            for name, count in self._counts.items()
            if name not in found
        }
        if not candidates:
            return {name: found[name] for name in self._counts}
        name = min(candidates, key=lambda name: min(len(candidates[name]), 2))  # what is settled, or cannot be, first
        gains = [sum(frozenset((each, (name, value))) in wanted for each in chosen) for value in candidates[name]]
        for _, value in sorted(zip(gains, candidates[name], strict=True), key=lambda each: (-each[0], each[1])):
            if (row := self.completed({*chosen, (name, value)}, wanted)) is not None:
                return row
        return None


def pairs_of(row: Row) -> set[Pair]:
    """What a row tries."""
    values = list(row.items())
    return {frozenset((one, other)) for place, one in enumerate(values) for other in values[place + 1 :]}
