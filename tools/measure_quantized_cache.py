"""What quantized keys and values cost: drafts accepted, bytes, and time per token.

    python tools/measure_quantized_cache.py [--model tiny] [--group-size 32] [--passages 32] [--context 2000]

Acceptance: rounds of three drafts from every token of held-out text, the same for all; the target with dense and with
quantized keys from the first position on, its assistant reading these, or dense ones beside them. Agreement: in how
many of these places the target chooses the token that it chooses with dense keys. Time: processor time of the tokens
behind a long prompt, in turns with dense keys.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple, cast

import mlx.core as mx
from command_line import parser_for, positive, run_tool

from mlx_gemma4_assist import GenerationOptions, Pair
from mlx_gemma4_assist.backend import DTYPES
from mlx_gemma4_assist.cache.quantization import KVQuantization, kv_quantization
from mlx_gemma4_assist.cache.rows import KVCache, join
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.loop import start
from mlx_gemma4_assist.engine.request import Request
from mlx_gemma4_assist.evaluation.quality import bundled_text
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.round import draft, verify
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Decoder, RoundState

DRAFTS, LENGTH, BEGIN, ROWS = 3, 80, 8, 16
Held = KVQuantization | None


class Found(NamedTuple):
    """For every row and place: how many drafts were accepted, and which token the target chose."""

    accepted: list[list[int]]
    chosen: list[list[int]]


def decoder_of(pair: Pair, texts: Sequence[list[int]], how: Held) -> tuple[Decoder, KVCache]:
    engine = Engine(pair)
    caches = [engine.new_cache(DRAFTS, how) for _ in texts]
    for cache in caches:
        cache.reserve(LENGTH + DRAFTS + 1)
    return Decoder(pair.target, pair.assistant, caches[0].layout, Sampling(), accept), join(caches)


def along(pair: Pair, texts: Sequence[list[int]], how: Held, read: Held) -> Found:
    """Rounds from every token of texts of one length; the target's keys are held one way, and read another."""
    decoder, cache = decoder_of(pair, texts, how)
    reader, read_cache = decoder_of(pair, texts, read)
    tokens = mx.array(texts, mx.int32)
    state, buffers, read_buffers = (
        start(decoder, cache, [text[0] for text in texts], 0),
        cache.buffers,
        read_cache.buffers,
    )
    accepted, chosen = [], []
    for step in range(LENGTH - 1):
        drafts = draft(reader, state, read_buffers, DRAFTS if step else 0, step)
        hidden, logits, buffers = verify(decoder, state, buffers, drafts.tokens, step)
        if how != read:
            *_, read_buffers = verify(reader, state, read_buffers, drafts.tokens, step)
        else:
            read_buffers = buffers
        accepted.append(accept(decoder.sampling, state, drafts, logits).accepted)
        chosen.append(mx.argmax(logits[:, 0], axis=-1))
        state = RoundState(state.length + 1, tokens[:, step + 1 : step + 2], hidden[:, :1], state.keys)
        mx.eval(accepted[-1], chosen[-1], state, buffers, read_buffers)
    counts = cast(list[list[int]], mx.stack(accepted[BEGIN:], axis=1).tolist())
    return Found(counts, cast(list[list[int]], mx.stack(chosen[BEGIN:], axis=1).tolist()))


def measure_acceptance(pair: Pair, args: argparse.Namespace) -> None:
    passages = bundled_text().strip().split("\n\n")
    texts = [tokens[:LENGTH] for text in passages if len(tokens := pair.encode(text, chat=False)) >= LENGTH]
    groups = [texts[at : at + ROWS] for at in range(0, min(args.passages, len(texts)), ROWS)]
    eight, four = (KVQuantization(bits, args.group_size, 0) for bits in (8, 4))
    dense: list[list[int]] = []
    for name, how, read in (
        ("dense", None, None),
        ("8 bits", eight, eight),
        ("4 bits", four, four),
        ("4 bits, assistant reads dense keys", four, None),
    ):
        found = [along(pair, group, how, read) for group in groups]
        counts = [n for each in found for row in each.accepted for n in row]
        chosen = [token for each in found for row in each.chosen for token in row]
        dense = dense or chosen
        places = [sum(n > place for n in counts) / len(counts) for place in range(DRAFTS)]
        agreed = sum(a == b for a, b in zip(chosen, dense, strict=True)) / len(dense)
        shown = ", ".join(f"{share:.1%}" for share in places)
        print(
            f"{name}: {shown} accepted at place 1 to {DRAFTS} of {len(counts)} rounds; agreement {agreed:.1%}",
            flush=True,
        )


def seconds_per_token(pair: Pair, prompt: list[int], options: GenerationOptions) -> tuple[float, int]:
    """Processor time of a token, and bytes of the cache."""
    engine = Engine(pair)
    cache = engine.new_cache(options.num_assistant_tokens, kv_quantization(options, pair.target.config))
    run = engine.run(Request(MediaPrompt(prompt), options, frozenset(), ()), cache)
    events = iter(run)
    next(events)
    began, made = time.process_time(), 0
    for event in events:
        made += len(event.tokens)
    return (time.process_time() - began) / made, cache.nbytes


def measure_time(pair: Pair, args: argparse.Namespace) -> None:
    prompt = pair.encode(bundled_text(), chat=False)[: args.context]
    common = {"max_tokens": args.tokens, "compile": False}
    held = {"kv_group_size": args.group_size, "quantized_kv_start": 0}
    for drafts in (0, DRAFTS):
        settings = [
            GenerationOptions(num_assistant_tokens=drafts, **common, **({"kv_bits": bits, **held} if bits else {}))
            for bits in (None, 8, 4)
        ]
        ratios: list[list[float]] = [[], [], []]
        for _ in range(args.turns):
            found = [seconds_per_token(pair, prompt, options) for options in settings]
            for ratio, (seconds, _) in zip(ratios, found, strict=True):
                ratio.append(seconds / found[0][0])
        for bits, ratio, (_, nbytes) in zip(("dense", 8, 4), ratios, found, strict=True):
            print(
                f"{drafts} drafts, {len(prompt)} tokens, {bits}: {nbytes:,} bytes, "
                f"{statistics.median(ratio):.2f} times the time per token",
                flush=True,
            )


def measure(args: argparse.Namespace) -> None:
    pair = Pair.load(args.model, dtype=args.dtype)
    KVQuantization(4, args.group_size, 0).check(pair.target.config)
    measure_acceptance(pair, args)
    measure_time(pair, args)


def arguments() -> argparse.ArgumentParser:
    parser = parser_for(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--group-size", type=positive, default=32)
    parser.add_argument("--passages", type=positive, default=32)
    parser.add_argument("--context", type=positive, default=2000)
    parser.add_argument("--tokens", type=positive, default=40, help="that time is measured by")
    parser.add_argument("--turns", type=positive, default=3)
    return parser


if __name__ == "__main__":
    run_tool(arguments(), measure)
