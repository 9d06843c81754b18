"""A tiny checkpoint that sees, made on the spot from a stored golden: the E2B's, with a tokenizer that knows pictures.

Shared by the tests and by the script that asks the reference, so that both read the same; needs neither MLX nor
PyTorch.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from support.media import picture
from support.paths import GOLDENS

TARGET, ASSISTANT = GOLDENS / "e2b" / "target", GOLDENS / "e2b" / "assistant"
NAMED = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "audio_token": "<|audio|>",
}
IDS = {120: "<|image>", 121: "<image|>", 122: "<|image|>", 123: "<|video|>"} | {
    119: "<|turn>",
    124: "<|audio>",
    125: "<audio|>",
    126: "<|audio|>",
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ ' <|turn> ' + m.role + ' ' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}{{ ' <|image|> ' }}{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{{ ' <turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <|turn> model ' }}{% if enable_thinking %}{{ 'w7 ' }}{% endif %}{% endif %}"
)
IMAGE_PROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": False,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.0, 0.0, 0.0],
    "image_processor_type": "Gemma4ImageProcessor",
    "image_std": [1.0, 1.0, 1.0],
    "max_soft_tokens": 70,
    "patch_size": 4,
    "pooling_kernel_size": 2,
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def make_checkpoint(folder: Path) -> Path:
    """``folder``, with a target for words from "w4" to "w118"; its assistant is ``ASSISTANT``."""
    shutil.copytree(TARGET, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    for i, token in IDS.items():
        words[token] = words.pop(f"w{i}")
        like = tokenizer["added_tokens"][0]
        tokenizer["added_tokens"].append(like | {"id": i, "content": token})
    tokenizer["added_tokens"].sort(key=lambda token: token["id"])
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"model_specific_special_tokens": NAMED, "processor_class": "Gemma4Processor"} | NAMED
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    media = GOLDENS / "media" / "gemma4" / "processor_config.json"
    settings = json.loads(media.read_text()) | {"image_processor": IMAGE_PROCESSOR}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def save_picture(path: Path) -> Path:
    Image.fromarray(picture(48, 80)).save(path)
    return path


def chat(*turns: Any) -> list[dict[str, Any]]:
    """Turns of the user and the assistant, alternately; each a list of parts or text."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(turns)]


# What the reference and the façade are both asked.

PICTURE = "PICTURE"
WORDS = (2, 13, 6, 7, 104, 35)
LONGER = (2, 98, 60, 78, 8, 96, 110, 116, 69, 46, 52, 40)
GREEDY = {"do_sample": False}


def asked(ids: tuple[int, ...], padding: int = 0, **options: Any) -> tuple[list[int], list[int], dict[str, Any]]:
    """Ids, mask and options of a greedy call."""
    return [0] * padding + list(ids), [0] * padding + [1] * len(ids), GREEDY | options


GENERATE = {
    "max_new_tokens": asked(WORDS, max_new_tokens=32),
    "max_length": asked(LONGER, max_length=30),
    "nothing about length": asked(LONGER),
    "padded": asked(WORDS, padding=3, max_new_tokens=16),
    "padded, max_length": asked(WORDS, padding=3, max_length=20),
    "a stop": asked(WORDS, max_new_tokens=32, eos_token_id=115),
    "stops": asked(WORDS, max_new_tokens=32, eos_token_id=[88, 37]),
    "repetition_penalty": asked(WORDS, max_new_tokens=32, repetition_penalty=1.8),
    "repetition": asked(LONGER, max_new_tokens=32, repetition_penalty=0.3),
    "suppress_tokens": asked(WORDS, max_new_tokens=32, suppress_tokens=[115, 25, 37]),
    "a generation_config": asked(WORDS, generation_config={"max_new_tokens": 9, "repetition_penalty": 1.8}),
    "all but one filtered": asked(WORDS, do_sample=True, top_k=1, max_new_tokens=16),
}


def templates(source: str) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Conversations, and arguments of ``apply_chat_template``."""
    parts = [{"type": "image", "url": source}, {"type": "text", "text": "w13 w6"}]
    whole = {"tokenize": True, "return_dict": True, "return_tensors": "np"}
    return {
        "text": (chat("w4 w5"), {}),
        "text, prompted": (chat("w4 w5"), {"add_generation_prompt": True}),
        "text, thinking": (chat("w4 w5"), {"add_generation_prompt": True, "enable_thinking": True}),
        "text, continued": (chat("w4 w5", "w6"), {"continue_final_message": True}),
        "ids": (chat("w4 w5"), whole | {"add_generation_prompt": True}),
        "picture": (chat(parts), whole | {"add_generation_prompt": True}),
        "picture, unprompted": (chat(parts, "w9"), whole),
    }


def texts(source: str) -> dict[str, tuple[str, Any]]:
    """Texts with a placeholder for each picture."""
    return {
        "plain": ("w4 w5", None),
        "one": ("<|image|>\n\nw13 w6", source),
        "two": ("<|image|> w13 <|image|> w6", [[source, source]]),
    }


PIPELINES = ("image-text-to-text", "text-generation")


def calls(task: str, source: str) -> dict[str, dict[str, Any]]:
    """Calls of a pipeline."""
    parts = [{"type": "image", "url": source}, {"type": "text", "text": "w13 w6"}]
    short = {"max_new_tokens": 8, "generate_kwargs": GREEDY}
    if task == "image-text-to-text":
        begun = [{"type": "text", "text": "w40"}]
        return {
            "as documented": {"images": source, "text": "<|image|>\n\nw13 w6 w7 w104", **short},
            "only new text": {"images": source, "text": "<|image|> w13", "return_full_text": False, **short},
            "text": {"text": "w13 w6 w7", **short},
            "chat": {"text": chat(parts), **short},
            "chat, only new text": {"text": chat(parts), "return_full_text": False, **short},
            "begun": {"text": chat(parts, begun), **short},
            "ids": {"text": "w13 w6 w7", "return_tensors": True, **short},
            "default length": {"text": "w13 w6 w7", "generate_kwargs": GREEDY},
        }
    short = {"max_new_tokens": 8} | GREEDY
    return {
        "text": {"text_inputs": "w13 w6 w7", **short},
        "only new text": {"text_inputs": "w13 w6 w7", "return_full_text": False, **short},
        "texts": {"text_inputs": ["w13 w6", "w98 w60"], **short},
        "chat": {"text_inputs": chat("w13 w6"), **short},
        "chats": {"text_inputs": [chat("w13 w6"), chat("w98")], **short},
        "max_length": {"text_inputs": "w13 w6 w7", "max_length": 12, **GREEDY},
    }
