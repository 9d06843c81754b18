"""``generate``: one prompt, its text as it is made, and what it took."""

import json
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, counted
from ..files import parse_json
from ..options import GenerationOptions
from ..text.messages import Media, user_message
from .grammar import GrammarChoice, check_with
from .interrupts import ending_at_once
from .loading import EMBEDDED_ANSWERS, check_choice, cut_off, draft_memory, introduce, load_pair, open_checkpoint
from .media import Content, MediaChoice, encoded, find_media, prepare
from .options import (
    ADJUSTED,
    DRAFTED,
    DRAWN,
    EMBEDDED,
    QUANTIZED,
    EnableThinking,
    Learned,
    ModelChoice,
    Only,
    ShowThinking,
    grouped,
)
from .prompt_cache import CacheFile, PromptCacheFile
from .run import INTERRUPTED
from .screen import Screen
from .streams import STANDARD_INPUT, moves_cursor, note, read_input

if TYPE_CHECKING:
    from ..engine.responses import GenerationResponse

HERE = ("top_logprobs", "stop", "skip_special_tokens", "prefill_step_size", "compile")
TOO_SHORT = 5  # tokens: neither the prompt's round nor the first rounds of a new pair have drafts


@dataclass(frozen=True)
class Question:
    """What is to be answered."""

    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; - reads standard input.")] = None
    messages: Annotated[
        Path | None,
        typer.Option("--messages", help="Instead, a JSON file with a list of chat messages, or -."),
    ] = None
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", help="Goes before the prompt.")] = None
    ignore_chat_template: Annotated[
        bool, typer.Option("--ignore-chat-template", help="The prompt is raw text to continue, not a message.")
    ] = False
    enable_thinking: EnableThinking = False


@grouped
def generate(
    question: Question,
    choice: ModelChoice,
    options: Annotated[GenerationOptions, Only(*DRAWN, *DRAFTED, *ADJUSTED, *QUANTIZED, *HERE)],
    media: MediaChoice,
    grammar: GrammarChoice,
    learned: Learned = True,
    show_thinking: ShowThinking = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
    prompt_cache_file: PromptCacheFile = None,
) -> int:
    """Answer a prompt, with drafts from the assistant.

    Text goes to standard output as it is made, statistics to standard error after it.
    """
    found = find_media(_content(question, media.media), media)
    options = grammar.over(options)
    cache_file = CacheFile(prompt_cache_file)
    check_choice(choice, options)
    _check_shown(show_thinking, as_json, options)
    checkpoint = open_checkpoint(choice, options)
    chat = not question.ignore_chat_template
    prompt = prepare(checkpoint, found, media, chat=chat, enable_thinking=question.enable_thinking)
    check_with(checkpoint, prompt, options)
    pair = load_pair(checkpoint, options, len(prompt.tokens) + options.max_tokens)
    if choice.model == EMBEDDED:
        note(EMBEDDED_ANSWERS)
    introduce(pair, choice, options)
    with ending_at_once():
        from ..api import stream
        from ..backend import compiles_in_process
        from ..rounds.compiled import compiles

    if compiles(options.compile) and not compiles_in_process():
        note("Compiling with g++: the first time on a machine takes half a minute before the first token.")
    responses = stream(
        pair,
        encoded(pair, prompt),
        options,
        prompt_cache=cache_file.open(pair, options),
        prompt_progress_callback=cache_file.counting(_progress),
        draft_memory=draft_memory(learned),
    )
    made, interrupted = _collect(responses, None if as_json else Screen(show_thinking))
    if as_json:
        more = cache_file.reused(made) | (_thoughts(made) if show_thinking else {})
        print(json.dumps(_summary(made, interrupted) | more, ensure_ascii=False))
    elif made:
        print()
        note(statistics(made[-1], pair.assistant is not None, options.num_assistant_tokens))
        if why := cut_off(made[-1], pair.target.config.max_position_embeddings, options.max_tokens):
            note(f"The text ends here: {why}")
    if (kept := cache_file.keep(made)) and not as_json:
        note(kept)
    return INTERRUPTED if interrupted else 0


def _check_shown(show_thinking: bool, as_json: bool, options: GenerationOptions) -> None:
    if options.top_logprobs is not None and not as_json:
        raise InputError("--top-logprobs is for the object that --json prints")
    if show_thinking and not options.skip_special_tokens:
        raise InputError(
            "--show-thinking tells thoughts from the answer, which --no-skip-special-tokens leaves as one text"
        )


def _collect(
    responses: "Generator[GenerationResponse, None, None]", screen: Screen | None
) -> "tuple[list[GenerationResponse], bool]":
    """All responses, each shown as soon as it is there; and whether Ctrl-C has cut them off."""
    made = []
    try:
        for response in responses:
            made.append(response)
            if screen is not None:
                screen.show(response)
    except KeyboardInterrupt:
        return made, True
    finally:
        responses.close()
    return made, False


def _content(question: Question, media: Media) -> Content:
    if (question.prompt is None) == (question.messages is None):
        raise InputError("give either --prompt or --messages")
    system = question.system_prompt
    if question.ignore_chat_template and question.enable_thinking:
        raise InputError("--enable-thinking is for the chat template, which --ignore-chat-template leaves out")
    if question.ignore_chat_template and (question.messages is not None or system is not None):
        raise InputError("--ignore-chat-template takes raw text, without --messages and --system-prompt")
    if question.messages is not None:
        if media:
            raise InputError("--image, --audio and --video go with --prompt; messages name their media themselves")
        conversation = _read_messages(question.messages)
    else:
        text = read_input(STANDARD_INPUT) if question.prompt == STANDARD_INPUT else question.prompt or ""
        if not (text if question.ignore_chat_template else text.strip()):
            raise InputError("the prompt is empty")
        if system is None:
            return text
        conversation = [dict(user_message(text, media))]
    return conversation if system is None else [{"role": "system", "content": system}, *conversation]


def _read_messages(path: Path) -> list[dict[str, Any]]:
    name = "standard input" if str(path) == STANDARD_INPUT else str(path)
    content = parse_json(read_input(path), name)
    if not isinstance(content, list) or not all(isinstance(message, dict) for message in content):
        raise InputError(f"{name} holds no list of messages, each with role and content")
    return content


def _progress(done: int, total: int) -> None:
    """How far a long prompt is; only a terminal is shown it."""
    if total > 512 and moves_cursor(sys.stderr):
        end = "\r\033[K" if done == total else ""
        print(f"\rPrompt: {done:,} of {total:,} tokens{end}", end="", file=sys.stderr, flush=True)


def statistics(last: "GenerationResponse", assisted: bool, asked: int | None) -> str:
    """A line each for the prompt, the generation, the drafts and the memory.

    Args:
        last: the last response.
        assisted: whether there is an assistant.
        asked: ``num_assistant_tokens``.
    """
    stats = last.stats
    lines = [
        f"Prompt: {counted(last.prompt_tokens, 'token')}, {last.prompt_tps:.1f} tokens per second",
        f"Generation: {counted(last.generation_tokens, 'token')}, {last.generation_tps:.1f} tokens per second",
    ]
    if stats.drafted:
        places = ", ".join(f"{a / d:.0%}" for a, d in zip(stats.accepted_at, stats.drafted_at, strict=True))
        last_place = len(stats.drafted_at)
        where = "at place 1" if last_place == 1 else f"at places 1 to {last_place}"
        lines.append(
            f"Drafts: {stats.accepted} of {stats.drafted} accepted ({places} {where}), "
            f"{last.generation_tokens / stats.rounds:.2f} tokens per round"
        )
    elif assisted:
        why = "plain rounds were faster here, as far as learned (--num-assistant-tokens makes some)"
        if asked == 0:
            why = "--num-assistant-tokens 0 asks for none"
        elif last.generation_tokens <= TOO_SHORT:
            why = "the text is too short"
        lines.append(f"Drafts: none; {why}")
    lines.append(f"Peak memory: {last.peak_memory:.3f} GB")
    return "\n".join(lines)


def _said(made: "list[GenerationResponse]", channel: str) -> str:
    return "".join(response.text for response in made if response.channel == channel)


def _thoughts(made: "list[GenerationResponse]") -> dict[str, Any]:
    """What was not answered."""
    calls = [response.text for response in made if response.channel == "tool_call" and response.text]
    return {"thought": _said(made, "thought"), "tool_calls": calls}


def _summary(made: "list[GenerationResponse]", interrupted: bool) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "text": _said(made, "answer"),
        "tokens": [response.token for response in made],
        "finish_reason": "interrupted" if interrupted else made[-1].finish_reason,
    }
    if made:
        last = made[-1]
        stats = last.stats
        summary |= {
            "prompt_tokens": last.prompt_tokens,
            "prompt_tps": last.prompt_tps,
            "generation_tokens": last.generation_tokens,
            "generation_tps": last.generation_tps,
            "peak_memory": last.peak_memory,
            "rounds": stats.rounds,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "accepted_at": stats.accepted_at,
            "drafted_at": stats.drafted_at,
        }
        if last.logprob is not None:
            summary["logprobs"] = [_log_probs(response) for response in made]
    return summary


def _log_probs(response: "GenerationResponse") -> dict[str, Any]:
    """Of a token and of the likeliest in its place, with OpenAI's names, but ids for tokens."""
    likeliest = [{"token": token, "logprob": logprob} for token, logprob in response.top_logprobs or ()]
    return {"token": response.token, "logprob": response.logprob, "top_logprobs": likeliest}
