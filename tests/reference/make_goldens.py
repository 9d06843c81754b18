"""Write tiny checkpoints of the five families and what transformers computes with them.

    python make_goldens.py [--out DIR] [--seed N] [--family NAME ...]

Each family gets a folder with `target/` and `assistant/`, checkpoints as transformers saves them in float32, and with
`golden.json` and `golden.safetensors`, the reference's outputs. Without options this rewrites the stored goldens. To
compare live, write fresh ones elsewhere, here, and read them where the package is installed:

    python make_goldens.py --out DIR --seed 7
    GOLDENS_DIR=DIR python -m pytest tests/test_goldens.py

This side's environment is in requirements.txt; five families take about three minutes on one core.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from checkpoints import write_pair
from families import FAMILIES, STOP_TOKENS, Family
from language import Language
from observations import NEW_TOKENS, Unsteady, observe
from training import randomize, shorten_mantissas, train_assistant, train_target

STORED = Path(__file__).resolve().parent.parent / "goldens"
TARGET_STEPS = 200
ACCEPTANCE_GOAL = 0.5
ATTEMPTS = 60


def prompt_lengths(window: int) -> dict[str, int]:
    """Prompts shorter than, as long as and longer than the sliding window, the last no multiple of it."""
    return {"short": 6, "window": window, "long": 2 * window + 11}


def train_pair(family: Family, language: Language, generator: torch.Generator) -> tuple[nn.Module, nn.Module]:
    """A target that speaks `language`, and an assistant that guesses about half of its words."""
    target = family.target_class(family.target_config)
    assistant = family.assistant_class(family.assistant_config)
    for model in (target, assistant):
        randomize(model, generator)
    loss = train_target(target, language, generator, TARGET_STEPS)
    shorten_mantissas(target)
    target.requires_grad_(False)
    reached = train_assistant(assistant, target, language, generator, ACCEPTANCE_GOAL)
    shorten_mantissas(assistant)
    print(f"{family.name}: target loss {loss:.3f}, {reached:.2f} of three drafts accepted", flush=True)
    return target, assistant.eval()


def steady_prompt(
    target: nn.Module, assistant: nn.Module, language: Language, length: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Observations on the first prompt of `length` tokens that is steady enough."""
    reasons = []
    for _ in range(ATTEMPTS):
        try:
            return observe(target, assistant, language.sample(length, generator))
        except Unsteady as error:
            reasons.append(str(error))
    raise RuntimeError(f"no steady prompt of {length} tokens in {ATTEMPTS} attempts: {sorted(set(reasons))}")


def write_family(name: str, folder: Path, seed: int) -> None:
    """Train, save and observe one family in `folder`."""
    started = time.perf_counter()
    family = FAMILIES[name]()
    generator = torch.Generator().manual_seed(seed)
    language = Language(seed)
    folder.mkdir(parents=True, exist_ok=True)
    target, assistant = write_pair(family, folder, *train_pair(family, language, generator), generator)
    trained = time.perf_counter()
    tensors, prompts = {}, {}
    window = target.config.get_text_config().sliding_window
    for label, length in prompt_lengths(window).items():
        observed, prompts[label] = steady_prompt(target, assistant, language, length, generator)
        tensors |= {f"{label}.{key}": value.contiguous() for key, value in observed.items()}
        statistics = prompts[label]["transformers"]
        print(
            f"  {label}: gap {prompts[label]['smallest_gap']}, {prompts[label]['distinct_tokens']} distinct tokens,"
            f" transformers accepts {statistics['accepted']} of {statistics['drafted']} drafts in"
            f" {statistics['rounds']} rounds, exact keys {len(prompts[label]['accepted']['3'])} rounds"
        )
    save_file(tensors, folder / "golden.safetensors")
    golden = {
        "family": name,
        "seed": seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sliding_window": window,
        "stop_tokens": STOP_TOKENS,
        "new_tokens": NEW_TOKENS,
        "prompts": prompts,
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"  {trained - started:.0f} s training, {time.perf_counter() - trained:.0f} s observing", flush=True)


def main() -> None:
    """Parse the options and write each family that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=STORED, help="folder for the families (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, language and prompts (default: %(default)s)")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the networks are too small to share out, and the sums keep their order
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in options.family:
        write_family(name, options.out / name, options.seed)


if __name__ == "__main__":
    main()
