"""Write what transformers generates for prompts with pictures, sound and video.

    python make_multimodal_goldens.py [--goldens DIR] [--seed N]

Reads the checkpoints that `make_goldens.py` wrote to DIR and adds to `multimodal/` there, for E2B, 12B and 31B each:
`golden.json` (prompts, token types, greedy tokens) and `golden.safetensors` (the processors' arrays, features, merged
embeddings). The networks for media are E2B's and 12B's own; the 31B there is text only, and gets a vision tower here
(`vision.safetensors`, `config.json`).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4VisionConfig

from checkpoints import publish_spelling
from families import FAMILIES, SPECIAL_TOKENS
from language import Language
from make_goldens import STORED
from observations import Unsteady, gap, require
from training import randomize, shorten_mantissas

NEW_TOKENS = 48
MIN_GAP = 1e-2
MIN_DISTINCT = 10
ATTEMPTS = 80
PICTURES = ((4, 6), (8, 10))  # columns and rows of patches; the second is longer than any window here
FRAMES = ((4, 4), (4, 4), (4, 4))
TEXT, PICTURE, VIDEO, SOUND = range(4)

Inputs = dict[str, Tensor]
Prompt = tuple[list[int], list[int], Inputs]


def load_target(name: str, goldens: Path) -> nn.Module:
    family = FAMILIES[name]()
    return family.target_class.from_pretrained(goldens / name / "target", dtype=torch.float32).eval()


def with_vision(text: nn.Module, folder: Path, generator: torch.Generator) -> nn.Module:
    """A text-only target with a vision tower; the tower and the config are saved to `folder`."""
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        patch_size=4,
        pooling_kernel_size=2,
        position_embedding_size=64,
        standardize=True,
    )
    config = Gemma4Config(text_config=text.config, vision_config=vision, audio_config=None, **SPECIAL_TOKENS)
    target = Gemma4ForConditionalGeneration(config)
    randomize(target, generator)
    shorten_mantissas(target)
    target.model.language_model.load_state_dict(text.model.state_dict())
    target.tie_weights()
    target.generation_config = text.generation_config
    tensors = {k: v.contiguous() for k, v in target.state_dict().items() if "vision" in k}
    save_file(tensors, folder / "vision.safetensors")
    text.config._name_or_path = ""
    config.save_pretrained(folder)
    publish_spelling(folder)
    return target.eval()


def grids(shapes: tuple[tuple[int, int], ...], size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patches (n, P, size) of pictures of these columns and rows, padded, and their positions (n, P, 2)."""
    longest = max(columns * rows for columns, rows in shapes)
    values = torch.zeros(len(shapes), longest, size)
    positions = torch.full((len(shapes), longest, 2), -1)
    for i, (columns, rows) in enumerate(shapes):
        count = columns * rows
        values[i, :count] = torch.rand((count, size), generator=generator)
        grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        positions[i, :count] = torch.stack([grid[1].flatten(), grid[0].flatten()], -1)
    return values, positions


class Prompts:
    """Prompts of one target: a few words, media between them."""

    def __init__(self, target: nn.Module, language: Language, generator: torch.Generator):
        self.config, self.language, self.generator = target.config, language, generator
        vision = target.config.vision_config
        self.unified = target.config.model_type == "gemma4_unified"
        self.side = vision.patch_size * (vision.pooling_kernel_size if self.unified else 1)
        self.pooled = 1 if self.unified else vision.pooling_kernel_size**2

    def words(self, count: int) -> list[int]:
        return self.language.sample(count + 1, self.generator)[1:]

    def write(self, spans: list[tuple[int, int, str, str, str]]) -> tuple[list[int], list[int]]:
        """Ids and types: words, and each span (type, count, placeholder, before, after) after some of them."""
        tokens, types = self.language.sample(9, self.generator), [TEXT] * 9
        for kind, count, placeholder, before, after in spans:
            ids = SPECIAL_TOKENS
            tokens += [ids[before], *[ids[placeholder]] * count, ids[after], *self.words(6)]
            types += [TEXT, *[kind] * count, TEXT, *[TEXT] * 6]
        return tokens, types

    def pictures(self) -> Prompt:
        values, positions = grids(PICTURES, 3 * self.side**2, self.generator)
        counts = [columns * rows // self.pooled for columns, rows in PICTURES]
        spans = [(PICTURE, n, "image_token_id", "boi_token_id", "eoi_token_id") for n in counts]
        return *self.write(spans), {"pixel_values": values, "image_position_ids": positions}

    def video(self) -> Prompt:
        values, positions = grids(FRAMES, 3 * self.side**2, self.generator)
        counts = [columns * rows // self.pooled for columns, rows in FRAMES]
        spans = [(VIDEO, n, "video_token_id", "boi_token_id", "eoi_token_id") for n in counts]
        frames = torch.tensor([len(FRAMES)])
        arrays = {"pixel_values_videos": values, "video_position_ids": positions, "num_frames_per_video": frames}
        return *self.write(spans), arrays

    def sound(self) -> Prompt:
        """Two clips, the first of them padded."""
        audio = self.config.audio_config
        steps, lengths = 45, (30, 45)
        size = audio.audio_embed_dim if self.unified else audio.subsampling_conv_channels[0]
        features = torch.randn((2, steps, size), generator=self.generator)
        mask = torch.arange(steps)[None] < torch.tensor(lengths)[:, None]
        counts = [n if self.unified else -(-n // 4) for n in lengths]
        spans = [(SOUND, n, "audio_token_id", "boa_token_id", "eoa_token_index") for n in counts]
        return *self.write(spans), {"input_features": features * mask[..., None], "input_features_mask": mask}


@torch.no_grad()
def observe(target: nn.Module, assistant: nn.Module, prompt: Prompt) -> tuple[Inputs, dict[str, object]]:
    """What the reference makes of a prompt, if no two logits nearly tie and the text varies."""
    tokens, types, arrays = prompt
    ids, kinds = torch.tensor([tokens]), torch.tensor([types])
    inputs = arrays | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    # forward() does not take videos in 5.22.2; generate() does, and calls the text network with merged embeddings.
    merged: list[Tensor] = []
    hook = target.model.language_model.register_forward_pre_hook(
        lambda module, args, options: merged.append(options["inputs_embeds"]), with_kwargs=True
    )
    out = target.generate(
        **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, return_dict_in_generate=True, output_logits=True
    )
    hook.remove()
    made = out.sequences[0, len(tokens) :].tolist()
    require(len(made) == NEW_TOKENS, "the text ends early")
    require(not set(made) & set(SPECIAL_TOKENS.values()), "a placeholder is generated")
    require(len(set(made)) >= MIN_DISTINCT, "the text repeats itself")
    require(gap(torch.stack(out.logits)) >= MIN_GAP, "two logits nearly tie")
    assisted = target.generate(**inputs, assistant_model=assistant, do_sample=False, max_new_tokens=NEW_TOKENS)
    agrees = assisted[0, len(tokens) :].tolist() == made
    tensors = arrays | {"inputs_embeds": merged[0], "logits": out.logits[0]}
    facts = {"tokens": tokens, "types": types, "generated": made, "assisted_agrees": agrees}
    return {k: v.contiguous() for k, v in tensors.items()}, facts


def steady(target: nn.Module, assistant: nn.Module, ask: Callable[[], Prompt]) -> tuple[Inputs, dict[str, object]]:
    reasons = []
    for _ in range(ATTEMPTS):
        try:
            return observe(target, assistant, ask())
        except Unsteady as error:
            reasons.append(str(error))
    raise RuntimeError(f"no steady prompt in {ATTEMPTS} attempts: {sorted(set(reasons))}")


def write_family(name: str, goldens: Path, seed: int) -> None:
    folder = goldens / "multimodal" / name
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    target = load_target(name, goldens)
    if name == "31b":
        target = with_vision(target, folder, generator)
    assistant_class = FAMILIES[name]().assistant_class
    assistant = assistant_class.from_pretrained(goldens / name / "assistant", dtype=torch.float32).eval()
    trained_with = json.loads((goldens / name / "golden.json").read_text())["seed"]
    prompts = Prompts(target, Language(trained_with), generator)
    asked = {"pictures": prompts.pictures, "video": prompts.video}
    if target.config.audio_config is not None:
        asked["sound"] = prompts.sound
    tensors, golden = {}, {}
    for label, ask in asked.items():
        found, golden[label] = steady(target, assistant, ask)
        tensors |= {f"{label}.{key}": value for key, value in found.items()}
        print(f"{name} {label}: {len(set(golden[label]['generated']))} distinct tokens", flush=True)
    save_file(tensors, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--goldens", type=Path, default=STORED, help="of make_goldens.py (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and media (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("e2b", "12b", "31b"):
        write_family(name, options.goldens, options.seed)


if __name__ == "__main__":
    main()
