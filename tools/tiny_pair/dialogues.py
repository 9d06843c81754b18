"""Chats made from novels, so that the tiny target answers a turn and ends it.

Nobody in the corpus asks a machine anything. What it does have is openings to be continued and people who answer
each other, so a user's turn is either the start of a passage or a line somebody says, and the model's turn is what
comes next in the novel.
"""

import random
from itertools import pairwise

from data import SENTENCE_END

REQUESTS = ("Continue: {}", "Continue: {}", "Go on: {}", "{}", "{}")
ENCOURAGEMENTS = ("Go on.", "Continue.", "And then?", "What happened next?", "Tell me more.")


def turn(role: str, text: str) -> str:
    return f"<|turn>{role}\n{text.strip()}<turn|>\n"


def sentences(text: str) -> list[str]:
    bounds = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    return [text[start:end].strip() for start, end in pairwise(bounds)]


def continuation(rng: random.Random, novel: list[str], index: int) -> list[str]:
    """An opening as the user's turn, the rest of some sentences as the model's, and perhaps more when asked."""
    pieces = [piece for block in novel[index : index + 6] for piece in sentences(block)]
    first = rng.randrange(max(1, len(pieces) // 2)) if rng.random() < 0.5 else 0
    pieces = pieces[first:]
    words = pieces[0].split(" ")
    cut = rng.randint(1, max(1, min(len(words) - 1, 20)))
    opening, rest = " ".join(words[:cut]), " ".join(words[cut:])
    if not rest or rng.random() < 0.2:  # a whole sentence, answered by the next ones
        opening, rest = pieces[0], ""
    count = rng.randint(0 if rest else 1, 4)
    answer = " ".join([rest, *pieces[1 : 1 + count]])
    turns = [turn("user", rng.choice(REQUESTS).format(opening)), turn("model", answer)]
    pieces = pieces[1 + count :]
    while len(pieces) > 2 and rng.random() < 0.4:
        count = rng.randint(1, 3)
        turns += [turn("user", rng.choice(ENCOURAGEMENTS)), turn("model", " ".join(pieces[:count]))]
        pieces = pieces[count:]
    return turns


def reply(rng: random.Random, novel: list[str], index: int) -> list[str]:
    """Consecutive paragraphs of speech as turns, without their quotation marks."""
    turns = []
    for offset, block in enumerate(novel[index : index + rng.choice((2, 2, 4, 6))]):
        if not block.startswith('"') or len(block) > 500:
            break
        turns.append(turn(("user", "model")[offset % 2], block.replace('"', "")))
    return turns[: len(turns) // 2 * 2]


def conversation(rng: random.Random, novel: list[str]) -> str:
    """One chat in the template's form, `<bos>` included."""
    while True:
        make = reply if rng.random() < 0.35 else continuation
        turns = make(rng, novel, rng.randrange(len(novel)))
        if turns and all(len(text) < 1200 for text in turns) and not any("\n<turn|>" in text for text in turns):
            return "<bos>" + "".join(turns)
