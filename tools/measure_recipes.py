"""What quantizing each part of the embedded pair costs: where the recipes of ``convert`` come from.

    python tools/measure_recipes.py target
    python tools/measure_recipes.py assistant
    python tools/measure_recipes.py pairs

Of the target: everything in 4 bits but one part in 8, and whole recipes; bits per weight, KL divergence to the original
in nats per token of held-out text. Of the assistant: one part quantized, the rest and the target left alone, and whole
assistants as ``convert`` makes them; agreement with the target's choice at draft 1, 2, 3 on held-out text, in percent.
Of pairs: both converted to a format, and ``convert``'s own comparison with the original.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_gemma4_assist import convert, load, load_assistant
from mlx_gemma4_assist.engine.pair import Pair
from mlx_gemma4_assist.evaluation.quality import measure_quality

sys.path.insert(0, str(Path(__file__).parent / "tiny_pair"))
from agreement import agreement
from measure import ASSETS, percentages

DRAFTS = 3
TARGET_PARTS = (
    ("embed_tokens",),
    ("embed_tokens_per_layer",),
    ("per_layer_model_projection",),
    ("per_layer_input_gate", "per_layer_projection"),
    ("q_proj",),
    ("k_proj",),
    ("v_proj",),
    ("o_proj",),
    ("gate_proj", "up_proj"),
    ("down_proj",),
)
TARGETS = (
    {"q_bits": 3},
    {"q_bits": 4},
    {"q_bits": 5},
    {"q_bits": 6},
    {"quant_predicate": "mixed_4_6"},
    {"quant_predicate": "gemma4_3_6"},
    {"quant_predicate": "gemma4_4_6"},
    {"quant_predicate": "gemma4_4_8"},
    {"q_mode": "nvfp4"},
    {"q_mode": "mxfp4"},
    {"q_mode": "nvfp4", "quant_predicate": "gemma4_4_8"},
)
ASSISTANT_PARTS = (
    ("embed_tokens",),
    ("centroids",),
    ("pre_projection", "post_projection"),
    ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
ASSISTANT_FORMATS = ({"bits": 8}, {"bits": 4}, {"bits": 3}, {"bits": 2}, {"mode": "nvfp4"}, {"mode": "mxfp4"})
ASSISTANTS = ({"q_bits": 8}, {"q_bits": 4}, {"q_mode": "nvfp4"}, {"q_mode": "mxfp4"})

PAIRS = (
    {"q_bits": 8},
    {"q_bits": 6},
    {"quant_predicate": "gemma4_4_8"},
    {"q_bits": 4, "q_group_size": 32},
    {"q_bits": 4},
    {"q_mode": "mxfp8"},
    {"q_mode": "nvfp4"},
    {"q_mode": "mxfp4"},
)

Measure = Callable[[str, dict[str, Any]], None]


def only(parts: Sequence[str], form: dict[str, Any], otherwise: bool) -> dict[str, Any]:
    """Options that give some parts a format of their own."""
    return {"quant_predicate": lambda path, *_: form if path.rpartition(".")[2] in parts else otherwise}


def described(options: dict[str, Any]) -> str:
    return " ".join(str(value) for value in options.values())


def measure_targets(length: int) -> None:
    target, processor = load(ASSETS / "tiny")
    text = (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8")
    tokens = processor.encode(text, chat=False)[: length + 1]

    def measure(name: str, options: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "target"
            done = convert("tiny", out, quantize=True, assistant_model="none", check=False, **options)
            bits = done.conversion.target.bits_per_weight
            found = measure_quality(Pair(target), Pair(load(out)[0]), tokens)
        print(f"{name:44} {bits:.2f} {found.kl:.4f} {100 * found.top1:.1f} %", flush=True)

    for parts in TARGET_PARTS:
        measure(f"{' '.join(parts)} 8", only(parts, {"bits": 8}, otherwise=True))
    for options in TARGETS:
        measure(described(options), options)


def measure_assistants(length: int) -> None:
    target, processor = load(ASSETS / "tiny")
    text = (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8").strip().split("\n\n")
    passages = [processor.encode(passage, chat=False) for passage in text]
    passages = passages[: math.ceil(length * len(passages) / sum(map(len, passages)))]

    def measure(name: str, options: dict[str, Any] | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            assistant = ASSETS / "tiny-assistant"
            if options is not None:
                assistant = Path(folder) / "assistant"
                convert("tiny-assistant", assistant, quantize=True, **options)
            network = load_assistant(assistant)
            counted, agreed = [0] * DRAFTS, [0] * DRAFTS
            for passage in passages:
                more_counted, more_agreed = agreement(target, network, passage, DRAFTS)
                counted = [a + b for a, b in zip(counted, more_counted, strict=True)]
                agreed = [a + b for a, b in zip(agreed, more_agreed, strict=True)]
        print(f"{name:44} {percentages(agreed, counted)} (of {counted[0]})", flush=True)

    measure("unquantized", None)
    for parts in ASSISTANT_PARTS:
        for form in ASSISTANT_FORMATS:
            measure(f"{' '.join(parts)} {described(form)}", only(parts, form, otherwise=False))
    for options in ASSISTANTS:
        measure(described(options), options)


def measure_pairs(length: int) -> None:
    """Bits per weight of the target, KL, same likeliest token, perplexity, drafts accepted, tokens per round."""
    text = (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        file.write_text(text[: 3 * length], encoding="utf-8")
        for i, options in enumerate(PAIRS):
            done = convert("tiny", Path(folder) / str(i), quantize=True, text=file, **options)
            found, bits = done.quality, done.conversion.target.bits_per_weight
            for name, at in (("float32", 0), (described(options), 1))[i > 0 :]:
                accepted = found.acceptance[at]
                rates = ", ".join(f"{100 * rate:.0f}" for rate in accepted.rates)
                cost = f"{bits:.2f} {found.kl:.4f} {100 * found.top1:.1f} %" if at else "32 0 100 %"
                print(f"{name:20} {cost}  {found.perplexity[at]:.2f}  {rates} %  {accepted.tokens_per_round:.2f}")
            sys.stdout.flush()


MEASURES = {"target": measure_targets, "assistant": measure_assistants, "pairs": measure_pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=MEASURES)
    parser.add_argument("--length", type=int, default=4096, help="tokens of held-out text")
    args = parser.parse_args()
    MEASURES[args.network](args.length)


if __name__ == "__main__":
    main()
