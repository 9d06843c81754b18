"""Which rows of a batch share buffers in layers of full attention: those that need about as many slots.

In one buffer for all rows, every row would hold memory for, and attend to, as many slots as the longest needs. A shelf
is a buffer (P, G, S, D) of P = 1, 2, 4, 8 or 16 places with ``capacity`` S. A row keeps its number in the batch, and
with it its state, its rings and its holder; only its shelf and place change, when it outgrows a shelf or is left alone
in one. Here is planned who lies where; ``batch_rows`` moves the keys and values.

What one row alone, and rows of about one length, have is one shelf with as many places as the batch has rows, each in
the place of its number: the dense buffer that it would be without shelves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from .layout import GROWTH, round_up

FLOOR = 1024  # slots; shorter rows lie together, since attending to so many costs next to nothing beside the weights
APART = 2.0  # times what a row needs: in a shelf that is to become larger than this it does not stay
TOGETHER = 1.5  # times what a row needs: into a shelf of up to this size it is put
SPARE = 2048  # slots in free places that are not worth a copy of the others
STEPS = 8  # capacities from one power of two to the next


class Shelf(NamedTuple):
    """Rows of a batch that share buffers of one size.

    Attributes:
        capacity: slots for each of them.
        rows: in each place the row's number in the batch, None where the place is free.
    """

    capacity: int
    rows: tuple[int | None, ...]

    @property
    def held(self) -> list[int]:
        return [row for row in self.rows if row is not None]


class Places(NamedTuple):
    """Where rows lie, as arrays of a round, whose contents change without a new trace.

    Attributes:
        picks: for each shelf, the row of the batch in each of its places (P,) int32; in a free one another of its rows.
        back: for each row of the batch its place, counted through all shelves, (B,) int32; 0 for a row without one.
    """

    picks: tuple[mx.array, ...]
    back: mx.array


class _Group(NamedTuple):
    """Rows that are to share a shelf, and its capacity."""

    capacity: int
    rows: list[int]


def capacity_for(need: int) -> int:
    """Slots of a shelf where a row needs so many: 256, 512, ... 2,048, 2,304, ...; from there 1/8 in vain at most."""
    return round_up(need, max(GROWTH, (1 << need.bit_length() - 1) // STEPS))


def arranged(shelves: Sequence[Shelf], needs: Sequence[int]) -> tuple[Shelf, ...]:
    """Shelves on which every row has the slots that it needs, and not many more; the smallest first.

    Args:
        shelves: what there is, and stays as it is as far as possible.
        needs: for each row of the batch the slots that it needs, 0 where nobody has the row. One has more.
    """
    groups = [group for shelf in shelves for group in _divided(shelf, needs)]
    return tuple(_seated(group, shelves, len(needs)) for group in _merged(groups, needs))


def _most(need: int, times: float) -> float:
    return max(FLOOR, times * need)


def _divided(shelf: Shelf, needs: Sequence[int]) -> list[_Group]:
    """A shelf's rows by what they need: who is too short for the longest's new capacity stays with the others."""
    left = sorted((row for row in shelf.held if needs[row]), key=lambda row: needs[row], reverse=True)
    groups = []
    while left:
        longest = needs[left[0]]
        fits = longest <= shelf.capacity <= _most(longest, APART)
        capacity = shelf.capacity if fits else capacity_for(longest)
        together = [row for row in left if capacity <= _most(needs[row], APART)]
        groups.append(_Group(capacity, together))
        left = left[len(together) :]
    return groups


def _merged(groups: Sequence[_Group], needs: Sequence[int]) -> list[_Group]:
    """Groups joined with the next larger where its capacity is not too much for any of their rows."""
    merged: list[_Group] = []
    for group in sorted(groups):
        if merged and group.capacity <= _most(min(needs[row] for row in merged[-1].rows), TOGETHER):
            group = _Group(group.capacity, merged.pop().rows + group.rows)
        merged.append(group)
    return merged


def _seated(group: _Group, shelves: Sequence[Shelf], slots: int) -> Shelf:
    """A place for each row of a group: the one that it has, if most of them lie in one shelf and that has room."""
    base = max((shelf.rows for shelf in shelves), key=lambda rows: len(set(rows) & set(group.rows)))
    count = 1 << (len(group.rows) - 1).bit_length()
    if count < len(base) <= slots and (len(base) - count) * group.capacity <= SPARE:
        count = len(base)
    if count == slots:
        return Shelf(group.capacity, tuple(row if row in group.rows else None for row in range(slots)))
    seated: list[int | None] = [None] * count
    if count == len(base):
        seated = [row if row in group.rows else None for row in base]
    others = iter(sorted(set(group.rows) - set(seated)))
    return Shelf(group.capacity, tuple(next(others, None) if row is None else row for row in seated))


def is_dense(shelves: Sequence[Shelf], slots: int) -> bool:
    """Whether a batch of so many rows lies in one buffer, in order."""
    in_order = all(row in (None, place) for place, row in enumerate(shelves[0].rows))
    return len(shelves) == 1 and len(shelves[0].rows) == slots and in_order


def places_of(shelves: Sequence[Shelf], slots: int) -> Places:
    """Where the rows of a batch lie.

    A free place reads and writes at the positions of another row of its shelf, for which it has room.
    """
    picks = [[shelf.held[0] if row is None else row for row in shelf.rows] for shelf in shelves]
    seats = [row for shelf in shelves for row in shelf.rows]
    back = [seats.index(row) if row in seats else 0 for row in range(slots)]
    return Places(tuple(mx.array(rows, mx.int32) for rows in picks), mx.array(back, mx.int32))
