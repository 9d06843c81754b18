"""Damages small checkpoints at random and loads them: each must load, or be refused with an InputError of one line.

A case is made from the seed and its number only, so that a failure is found again by ``--seed`` and ``--only``. Cases
damage one file of a checkpoint: the JSON files (values of other types, huge, negative, nested, missing; bytes cut off
or changed), chat templates, README.md, tokenizer.model and safetensors (the same, headers included). What loads writes
tokens, and reads a picture, a video and a sound if it can. Each case runs within bounds of memory and time, in a
process that may die of it. Prints the counts by kind of outcome and the failures; the exit code is 1 if there are any.
"""

import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import fuzzing
import mlx.core as mx
from damage import MARK, damage_bytes, damage_header, damage_json
from support import checkpoints as small
from support import media
from support.multimodal import write_pair

from mlx_gemma4_assist import GenerationOptions, Media, Pair, load_assistant
from mlx_gemma4_assist.api import stream
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers
from mlx_gemma4_assist.checkpoints.pairing import assistant_for
from mlx_gemma4_assist.models.audio_config import Gemma4AudioConfig
from mlx_gemma4_assist.models.vision_config import Gemma4UnifiedVisionConfig, Gemma4VisionConfig
from mlx_gemma4_assist.text.processor import Processor

TEXT_BASES = ("E2B", "26B-A4B", "31B", "sentencepiece")
BASES = (*TEXT_BASES, "towers", "unified", "assistant")
OFTEN = {"config.json": 4, "model.safetensors": 2, "tokenizer.json": 2, "processor_config.json": 2}
GENERATION = {"eos_token_id": [1, 106], "suppress_tokens": [7], "temperature": 1.0, "top_k": 64, "top_p": 0.95}
CARD = "---\nbase_model: someone/base\nlicense: mit\n---\n# Mine\n"
INDEX = "model.safetensors.index.json"
ADDED: Mapping[str, Sequence[str]] = {
    "config.json": (
        "per_layer_config", "dtype", "torch_dtype", "quantization", "quantization_config", "rope_parameters",
        "layer_types", "vision_config", "audio_config", "text_config", "eos_token_id", "pad_token_id", "bos_token_id",
        "model_type", "rms_norm_eps", "final_logit_softcapping", "_name_or_path", "max_position_embeddings",
        "tie_word_embeddings",
    ),
    "generation_config.json": ("eos_token_id", "bos_token_id", "suppress_tokens", "do_sample", "min_p"),
    "tokenizer_config.json": (
        "chat_template", "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens", "bos_token",
        "model_max_length", "padding_side", "tokenizer_class", "image_token", "auto_map",
    ),
    "tokenizer.json": ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder", "type"),
    "processor_config.json": ("audio_processor", "num_frames", "image_mean", "size", "chat_template", "fps"),
    "preprocessor_config.json": ("processor_class", "image_mean", "size", "num_frames", "feature_size"),
    "chat_template.json": ("chat_template", "default"),
}  # fmt: skip
TEMPLATES = (
    "", "{{", "{{ 1 / 0 }}", "{{ nothing.at.all }}", "{{ messages }}", "{{ range(10**9) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception(7) }}", "{{ raise_exception('a\nb') }}", "{% include 'x' %}", "{{ 'x' * -1 }}", "\x00",
    "{{ messages[0].content[9].text }}", "{% for m in 7 %}{% endfor %}", "{{ ''.__class__.__mro__ }}",
)  # fmt: skip
TOKENIZER_PARTS: tuple[tuple[str, Any], ...] = (
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"}),
    ("post_processor", {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
    ("post_processor", {"type": "BertProcessing", "sep": ["x", 10**9], "cls": ["y", 5]}),
    ("truncation", {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}),
    ("padding", {"strategy": {"Fixed": 10**12}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "x"}),
    ("decoder", {"type": "Strip", "content": "e", "start": 10**9, "stop": 10**9}),
    ("decoder", {"type": "Sequence", "decoders": [{"type": "Strip", "content": "h", "start": 3, "stop": 3}]}),
    ("decoder", {"type": "BPEDecoder", "suffix": ""}),
    ("decoder", {"type": "Replace", "pattern": {"Regex": "a*"}, "content": "x"}),
    ("model", {"type": "Unigram", "vocab": [], "unk_id": 7, "byte_fallback": False}),
    ("model", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None, "byte_fallback": True}),
    ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}),
    ("added_tokens", [{"id": 2**32 - 1, "content": "<bos>", "single_word": False, "lstrip": False, "rstrip": False,
                       "normalized": False, "special": True}]),
)  # fmt: skip
QUESTION = Media(pictures=(media.picture(40, 50),), sounds=(media.tone(0.1, 16_000)[0],), videos=(media.video(2),))


def bases(folder: Path) -> dict[str, Path]:
    """Whole checkpoints of each layout, small enough to be copied for every case."""
    made = {name: _of_text(folder / name, name) for name in TEXT_BASES}
    made |= {name: media_base(folder / name, name == "unified") for name in ("towers", "unified")}
    made["assistant"] = small.save(folder / "assistant", small.ASSISTANT, small.randomize(small.assistant()))
    _in_shards(made["31B"])
    for base in made.values():
        (base / "generation_config.json").write_text(json.dumps(GENERATION))
        (base / "README.md").write_text(CARD)
    return made


def _of_text(folder: Path, name: str) -> Path:
    family = "31B" if name == "sentencepiece" else name
    layout = small.as_google_full if family == "26B-A4B" else small.as_mlx_community  # one has its experts stacked
    small.save(folder, small.full_config(family), layout(small.randomize(small.target(family))))
    if name == "sentencepiece":
        small.save_sentencepiece(folder)
    else:
        small.save_tokenizer(folder)
    if name == "26B-A4B":
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": small.TEMPLATE}))
    return folder


def media_base(folder: Path, unified: bool) -> Path:
    """One with towers, all of whose settings are spelled out; the unified one's files are those of older spelling."""
    write_pair(folder, unified=unified)
    config = json.loads((folder / "config.json").read_text())
    vision = Gemma4UnifiedVisionConfig if unified else Gemma4VisionConfig
    config["vision_config"] = asdict(vision.from_dict(config["vision_config"]))
    if not unified:
        config["audio_config"] = asdict(Gemma4AudioConfig.from_dict(config["audio_config"]))
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"]["max_soft_tokens"] = 70
    if unified:
        flat = settings["image_processor"] | settings["feature_extractor"]
        (folder / "preprocessor_config.json").write_text(json.dumps(flat))
        (folder / "video_preprocessor_config.json").write_text(json.dumps(settings["video_processor"]))
        (folder / "processor_config.json").unlink()
    else:
        (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def _in_shards(folder: Path) -> None:
    weights = mx.load(str(folder / "model.safetensors"))
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    where = {name: names[place % 2] for place, name in enumerate(sorted(weights))}
    for file in names:
        mx.save_safetensors(str(folder / file), {name: weights[name] for name in where if where[name] == file})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 7}, "weight_map": where}))
    (folder / "model.safetensors").unlink()


def damage(rng: random.Random, folder: Path) -> str:
    """One damage to one file of a checkpoint; what was done, in words."""
    names = sorted(file.name for file in folder.iterdir())
    name = rng.choice([name for name in names for _ in range(OFTEN.get(name, 1))])
    file = folder / name
    if rng.random() < 0.03:
        file.unlink()
        return f"{name} gone"
    if rng.random() < 0.03:
        file.write_bytes(MARK + file.read_bytes())
        return f"{name} with a byte order mark"
    return _damage_content(rng, file)


def _damage_content(rng: random.Random, file: Path) -> str:
    if file.suffix == ".safetensors":
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        return damage_header(rng, file) if rng.random() < 0.5 else damage_bytes(rng, file, header)
    if file.suffix == ".jinja" and rng.random() < 0.5:
        template = rng.choice(TEMPLATES)
        file.write_text(template)
        return f"{file.name} {template!r:.40}"
    if file.suffix != ".json" or rng.random() < 0.1:
        return damage_bytes(rng, file)
    if file.name == "tokenizer.json" and rng.random() < 0.3:
        return _damage_tokenizer(rng, file)
    return damage_json(rng, file, ADDED.get(file.name, ADDED["processor_config.json"]))


def _damage_tokenizer(rng: random.Random, file: Path) -> str:
    """Give it a part that the tokenizers library stumbles over, perhaps late."""
    content = json.loads(file.read_text())
    name, part = rng.choice((*TOKENIZER_PARTS, ("model", content["model"] | {"continuing_subword_prefix": "é" * 9})))
    file.write_text(json.dumps(content | {name: part}))
    return f"{file.name} {name} {part!r:.80}"


def load_and_write(folder: Path, base: str, whole: Pair) -> None:
    """All that reads a checkpoint."""
    prompt: Any = [2, 5, 7]
    if base == "assistant":
        pair = replace(whole, assistant=load_assistant(folder))
    elif base in TEXT_BASES:
        processor = Processor.from_pretrained(folder)
        processor.encode([{"role": "user", "content": "hello é"}])
        processor.decode(range(400))
        assistant_for(folder)
        pair = Pair(load_model(folder), None, processor)
        load_towers(folder)
    else:
        pair = Pair.load(folder, "none")
        prompt = pair.media.read("What?", QUESTION)
    for _ in stream(pair, prompt, GenerationOptions(max_tokens=2, num_assistant_tokens=2 * (base == "assistant"))):
        pass


class Checkpoints(fuzzing.Cases):
    """Copies of whole checkpoints, one file of each damaged."""

    def __init__(self, folder: Path):
        self.bases = bases(folder / "whole")
        self.folder = folder / "damaged"
        self._base = ""
        self._whole = Pair.load(self.bases["E2B"], "none")

    def make(self, rng: random.Random) -> str:
        return f"{self.copy(rng.choice(BASES))}, {damage(rng, self.folder)}"

    def copy(self, base: str) -> str:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.bases[base], self.folder)
        self._base = base
        return base

    def attempt(self) -> None:
        load_and_write(self.folder, self._base, self._whole)


def arguments():
    return fuzzing.arguments(__doc__)


if __name__ == "__main__":
    sys.exit(fuzzing.main(arguments().parse_args(), Checkpoints))
