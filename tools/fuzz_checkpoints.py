"""Damages small checkpoints at random and loads them: each must load, or be refused with an InputError of one line.

A case is made from the seed and its number only, so that a failure is found again by ``--seed`` and ``--only``. Cases
damage config.json, generation_config.json, tokenizer_config.json (values of other types, huge, negative, nested,
missing; bytes cut off or changed), README.md and safetensors (the same, headers included). What loads writes tokens.
Prints the counts by kind of outcome and the failures; the exit code is 1 if there are any.
"""

import argparse
import faulthandler
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import checkpoints as small

from mlx_gemma4_assist import GenerationOptions, InputError, Pair, load_assistant
from mlx_gemma4_assist.api import stream
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers
from mlx_gemma4_assist.checkpoints.pairing import assistant_for
from mlx_gemma4_assist.models.audio_config import Gemma4AudioConfig
from mlx_gemma4_assist.models.vision_config import Gemma4VisionConfig
from mlx_gemma4_assist.text.processor import Processor

SECONDS = 20  # a case that takes longer has failed
BASES = ("E2B", "26B-A4B", "towers", "assistant")
FILES = (
    "config.json",
    "config.json",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "README.md",
    "weights",
)
GENERATION = {"eos_token_id": [1, 106], "suppress_tokens": [7], "temperature": 1.0, "top_k": 64, "top_p": 0.95}
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 96, -(2**31), 2**31 - 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-308, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "x", "0", "é\x00", [], [[]], [None], [1, 2], ["x"], [{}],
    {}, {"x": 1}, {"": None}, {"0": {}}, {"0": {"head_dim": "x"}}, "full_attention", "float16", "vision",
)  # fmt: skip
CARD = "---\nbase_model: someone/base\nlicense: mit\n---\n# Mine\n"
DEPTH = 200_000
TOWERS = {"vision_config": asdict(Gemma4VisionConfig()), "audio_config": asdict(Gemma4AudioConfig())}
_EXTRA = (
    "per_layer_config", "dtype", "torch_dtype", "quantization", "quantization_config", "rope_parameters", "layer_types",
    "vision_config", "audio_config", "text_config", "eos_token_id", "pad_token_id", "bos_token_id", "model_type",
    "rms_norm_eps", "final_logit_softcapping", "_name_or_path", "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip


def bases(folder: Path) -> dict[str, Path]:
    """Whole checkpoints of each layout, small enough to be copied for every case; "towers" are in the config only."""
    made = {}
    for name in BASES:
        assistant = name == "assistant"
        family = "E2B" if name == "towers" else name
        model = small.assistant() if assistant else small.target(family)
        weights = small.randomize(model)
        config = small.ASSISTANT if assistant else small.full_config(family) | (TOWERS if name == "towers" else {})
        layout = small.as_google_full if family == "26B-A4B" else small.as_mlx_community
        stored = weights if assistant else layout(weights)
        made[name] = small.save(folder / name, config, stored)
        small.save_tokenizer(made[name])
        (made[name] / "generation_config.json").write_text(json.dumps(GENERATION))
        (made[name] / "README.md").write_text(CARD)
    return made


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a JSON value can be changed: the keys and indices that lead to each part of it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in items for found in ((*path, key), *places(part, (*path, key)))]


def damage_json(rng: random.Random, file: Path) -> str:
    """Change one value of a JSON file; what was done, in words."""
    content = json.loads(file.read_text())
    objects = [content, *(part for part in content.values() if isinstance(part, dict))]
    path = rng.choice(places(content))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    kind = rng.choice(("swapped", "swapped", "swapped", "missing", "nested", "added"))
    what: Any = None
    if kind == "missing":
        del parent[path[-1]]
    elif kind == "added":
        path, what = (rng.choice(_EXTRA),), rng.choice(ODD)
        rng.choice(objects)[path[0]] = what
    else:
        what = rng.choice(ODD) if kind == "swapped" else "NESTED"
        parent[path[-1]] = what
    text = json.dumps(content)
    if kind == "nested":
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        inside = opening * DEPTH + "1" + closing * DEPTH if rng.random() < 0.5 else opening * 50 + "1" + closing * 50
        text = text.replace('"NESTED"', inside)
    file.write_text(text)
    return f"{file.name} {kind} {'.'.join(map(str, path))} {what!r:.40}"


def damage_bytes(rng: random.Random, file: Path, head: int) -> str:
    """Cut a file off, or change bytes of it, mostly within its first ``head`` ones."""
    content = bytearray(file.read_bytes())
    end = len(content) if rng.random() < 0.2 else min(head, len(content))
    if rng.random() < 0.3:
        del content[rng.randrange(end) :]
        kind = "cut"
    else:
        for _ in range(rng.choice((1, 1, 2, 8))):
            content[rng.randrange(end)] = rng.choice((0, 255, 34, 48, 57, 91, rng.randrange(256)))
        kind = "flipped"
    file.write_bytes(content)
    return f"{file.name} {kind}"


def damage_header(rng: random.Random, file: Path) -> str:
    """Change one value of the JSON in a safetensors file's header; its length stays right."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    path = rng.choice(places(header))
    parent = header
    for key in path[:-1]:
        parent = parent[key]
    what = rng.choice((*ODD, "F16", "BF16", "I32", "U8", "F64", "F8_E4M3"))
    parent[path[-1]] = what
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return f"{file.name} header {'.'.join(map(str, path))} {what!r:.40}"


def damage(rng: random.Random, folder: Path) -> str:
    """One damage to one file of a checkpoint; what was done, in words."""
    name = rng.choice(FILES)
    if name == "weights":
        file = folder / "model.safetensors"
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        return damage_header(rng, file) if rng.random() < 0.5 else damage_bytes(rng, file, header)
    if name == "README.md" or rng.random() < 0.1:
        return damage_bytes(rng, folder / name, 10**9)
    return damage_json(rng, folder / name)


def load_and_write(folder: Path, base: str, whole: Pair) -> None:
    """All that reads a checkpoint."""
    if base == "assistant":
        pair = replace(whole, assistant=load_assistant(folder))
    else:
        processor = Processor.from_pretrained(folder)
        processor.encode([{"role": "user", "content": "hello"}])
        assistant_for(folder)
        pair = Pair(load_model(folder), None, processor)
        load_towers(folder)
    for _ in stream(pair, [2, 5, 7], GenerationOptions(max_tokens=2, num_assistant_tokens=2 * (base == "assistant"))):
        pass


def outcome(folder: Path, base: str, whole: Pair) -> tuple[str, str]:
    """What became of a damaged checkpoint, and for a failure where it came from."""
    signal.alarm(SECONDS)
    try:
        load_and_write(folder, base, whole)
    except InputError as error:
        text = str(error)
        right = "\n" not in text and len(text) < 2000
        return ("refused", text) if right else ("FAILED: no single line", text[:300])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "mlx_gemma4_assist" in frame.filename] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"
        return f"FAILED: {type(error).__name__} in {place}", str(error)[:200]
    finally:
        signal.alarm(0)
    return "loaded", ""


def run(seed: int, numbers: range, made: dict[str, Path], work: Path, verbose: bool) -> Counter[str]:
    """Go through the cases of these numbers; prints failures as they come, each kind once."""
    counts: Counter[str] = Counter()
    whole = Pair.load(made["E2B"], "none")
    for number in numbers:
        rng = random.Random(f"{seed}/{number}")
        base = rng.choice(BASES)
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(made[base], work)
        what = damage(rng, work)
        (work.parent / "case").write_text(f"{number} {base} {what}")  # to be read where the process died
        kind, text = outcome(work, base, whole)
        if verbose or (kind.startswith("FAILED") and not counts[kind]):
            print(f"case {number}: {base}, {what}: {kind}: {text}", flush=True)
        counts[kind] += 1
    return counts


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--only", type=int, help="the number of one case, which is shown in full")
    return parser


def main() -> int:
    args = arguments().parse_args()
    faulthandler.enable()

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    signal.signal(signal.SIGALRM, too_slow)
    numbers = range(args.cases) if args.only is None else range(args.only, args.only + 1)
    with tempfile.TemporaryDirectory() as folder:
        made = bases(Path(folder) / "whole")
        begin = time.perf_counter()
        counts = run(args.seed, numbers, made, Path(folder) / "damaged", args.only is not None)
    minutes = (time.perf_counter() - begin) / 60
    for kind, count in sorted(counts.items()):
        print(f"{count:6d} {kind}")
    print(f"seed {args.seed}: {len(numbers)} cases, {len(numbers) / minutes:.0f} a minute")
    return int(any(kind.startswith("FAILED") for kind in counts))


if __name__ == "__main__":
    sys.exit(main())
