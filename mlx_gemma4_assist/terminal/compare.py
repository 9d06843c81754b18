"""The command that makes an answer again without drafts: is it the same text, and how much slower?"""

from ..errors import InputError
from ..server.chat_session import Reply
from .attached import text_of
from .statistics import tokens_per_second
from .talk import Talk

AROUND = 24  # characters that are shown of where two texts part


def compare(talk: Talk, argument: str) -> None:
    """Make the last answer again without drafts, and say how both compare."""
    before, messages = talk.last, talk.session.messages
    if not messages or messages[-1]["role"] != "assistant":
        raise InputError("there is no answer to compare with yet")
    if before is not None and before.finished is not None and not before.usage.drafted:
        raise InputError("the last answer was made without drafts: there is nothing to compare")
    talk.say("Without drafts:")
    again = talk.answer(talk.session.compare, recorded=False)
    if again is None or again.finish_reason == "cancelled":
        return
    stopped = before is not None and before.finish_reason == "cancelled"
    sampled = bool(talk.session.answer_options().get("temperature"))
    talk.say(f"{verdict(text_of(messages[-1]), again.answer, stopped, sampled)} {pace(before, again)}".rstrip())


def verdict(text: str, again: str, stopped: bool, sampled: bool) -> str:
    """Whether two texts are the same, and where they part first.

    Args:
        text: with drafts.
        again: without.
        stopped: whether the first was stopped, so that only its beginning is compared.
        sampled: whether they were drawn.
    """
    if text == again:
        return "The same text."
    if stopped and again.startswith(text):
        return "The same text, as far as the answer went before it was stopped."
    same = next((i for i, (one, other) in enumerate(zip(text, again, strict=False)) if one != other), None)
    same = min(len(text), len(again)) if same is None else same
    begin = max(0, same - AROUND)
    with_drafts, without = (repr(each[begin : same + AROUND]) for each in (text, again))
    why = (
        "Drawn texts may differ: both follow the target's distribution."
        if sampled
        else "Greedy texts are the same in float32; elsewhere a near tie may fall otherwise, which `parity` counts."
    )
    return f"Another text from character {same + 1} on: {with_drafts} with drafts, {without} without. {why}"


def pace(before: Reply | None, again: Reply) -> str:
    """How many times as fast drafts were; empty where it is not known."""
    if before is None or before.finished is None or again.finished is None:
        return ""
    with_drafts, without = tokens_per_second(before.finished), tokens_per_second(again.finished)
    if with_drafts is None or without is None:
        return ""
    rates = f"{with_drafts:.1f} tokens per second with them, {without:.1f} without"
    if with_drafts >= without:
        return f"Drafts made it {with_drafts / without:.2f} times as fast: {rates}."
    return f"Drafts made it {without / with_drafts:.2f} times as slow: {rates}."
