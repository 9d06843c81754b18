"""One line on an answer, and the legend of drafts."""

from typing import TYPE_CHECKING

from ..errors import counted
from .drafts import legend

if TYPE_CHECKING:
    from ..server.chat_session import Reply
    from ..server.exchange import Finished

__all__ = ["legend", "statistics", "tokens_per_second"]


def statistics(reply: "Reply", *, max_tokens: int | None = None, context: int | None = None) -> str:
    """One line on an answer that has ended, by itself or not.

    Args:
        reply: all of it.
        max_tokens: the most that were asked for, None for no limit.
        context: the most tokens of prompt and answer together; None or 0 if that is not known.
    """
    parts = [", ".join(_made(reply)), _first_token(reply), _reused(reply), _why(reply, max_tokens, context)]
    return f"[{'; '.join(part for part in parts if part)}]"


def _made(reply: "Reply") -> list[str]:
    tokens = _tokens(reply)
    parts = [counted(tokens, "token")]
    finished = reply.finished
    if finished is None:
        return parts
    usage = finished.usage
    speed = tokens_per_second(finished)
    if speed is not None:
        parts.append(f"{speed:.1f} per second")
    if usage.drafted and usage.rounds:
        parts.append(f"{tokens / usage.rounds:.2f} per round")
        parts.append(f"{usage.accepted / usage.drafted:.0%} of drafts accepted")
    return parts


def tokens_per_second(finished: "Finished") -> float | None:
    """Behind the first token; None where a single round brought all, so that nothing took time behind it."""
    tokens, rounds = finished.usage.completion_tokens, finished.usage.rounds
    if tokens < 2 or rounds == 1 or finished.generation <= 0:  # servers of others tell no rounds
        return None
    return (tokens - 1) / finished.generation


def _tokens(reply: "Reply") -> int:
    return len(reply.token_ids) if reply.finished is None else reply.finished.usage.completion_tokens


def _first_token(reply: "Reply") -> str:
    finished = reply.finished
    return "" if finished is None else f"first token after {finished.queued + finished.prompt:.2f} s"


def _reused(reply: "Reply") -> str:
    if not reply.prompt_tokens:
        return ""
    return f"{reply.cached_tokens:,} of {reply.prompt_tokens:,} prompt tokens reused"


def _why(reply: "Reply", max_tokens: int | None, context: int | None) -> str:
    """Why it did not end by itself."""
    if reply.finish_reason == "cancelled":
        return "stopped"
    if reply.finish_reason == "error":
        return "failed"
    if reply.finish_reason != "length":
        return ""
    tokens = _tokens(reply)
    if context and reply.prompt_tokens + tokens >= context:
        return "the context is full"
    by_option = max_tokens is None or tokens >= max_tokens
    return "cut off by --max-tokens" if by_option else "the memory is full"
