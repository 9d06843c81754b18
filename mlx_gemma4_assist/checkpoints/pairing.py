"""Which assistant belongs to a target."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from ..files import read_json, read_json_if_there, read_part
from ..models.families import families
from .hub import EMBEDDED, cached_repo, folder_in_cache, name_of, repo_of

SIZES = {name: (family.target.hidden_size, family.target.num_hidden_layers) for name, family in families().items()}
"""The text network's ``hidden_size`` and ``num_hidden_layers`` of each size, by Google's name for it."""
_ANY_SIZE = "|".join(name.replace("-", "[-_]") for name in SIZES)
_INSTRUCTION_TUNED = re.compile(
    rf"(?<![a-z])gemma[-_]?4[-_](?P<size>{_ANY_SIZE})[-_]it(?![a-z0-9])(?P<rest>.*)", re.IGNORECASE
)


def assistant_for(path_or_repo: str | os.PathLike[str]) -> str | None:
    """The assistant of a target: a folder, an alias, or one of Google's repos; None if there is none to suggest.

    A repo's name tells: ``mlx-community/gemma-4-e4b-it-4bit`` belongs to ``google/gemma-4-E4B-it-assistant``, and a
    quantization-aware training (``-it-qat-...``) to that training's own assistant,
    ``google/gemma-4-E4B-it-qat-q4_0-unquantized-assistant``. The network is never asked; a repo whose name does not
    tell is looked up in the local cache.

    A folder's assistant is its sibling ``NAME-assistant`` or its subfolder ``assistant``; failing these the first name
    among the folder's own, its config's ``_name_or_path`` and its README's ``base_model`` that tells; failing these the
    sizes in its config, if it has a chat template.

    Base models have none: Google's assistants are trained on the outputs of the instruction-tuned models. Their output
    would still be right, but their drafts would seldom be accepted.

    Raises:
        InputError: a folder whose config.json is missing or broken.
    """
    name = name_of(path_or_repo)
    if name in EMBEDDED:
        return EMBEDDED[1] if name == EMBEDDED[0] else None
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _assistant_for_folder(folder)
    repo = repo_of(name)
    found = _assistant_by_name(name if repo is None else repo.name)
    if found is None and repo is not None:
        cached = folder_in_cache(repo)
        return None if cached is None else _assistant_for_folder(cached)
    return found


def _assistant_by_name(name: str) -> str | None:
    found = _INSTRUCTION_TUNED.search(name)
    if not found or "assistant" in found["rest"].lower():
        return None
    size = found["size"].upper().replace("_", "-")
    qat = re.search(r"[-_.]qat(?![a-z])", found["rest"], re.IGNORECASE)
    return f"google/gemma-4-{size}-it{'-qat-q4_0-unquantized' if qat else ''}-assistant"


def _assistant_for_folder(folder: Path) -> str | None:
    folder = folder.absolute()
    for neighbour in (folder.with_name(f"{folder.name}-assistant"), folder / "assistant"):
        if (neighbour / "config.json").is_file():
            return str(neighbour)
    config = read_json(folder / "config.json")
    names = (_assistant_by_name(name) for name in _names(folder, config))
    return next((name for name in names if name), None) or _assistant_by_size(folder, config)


def _names(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    yield folder.name
    yield cached_repo(folder) or ""
    yield str(config.get("_name_or_path", ""))
    if (folder / "README.md").is_file():
        try:
            base: object = ModelCard.load(folder / "README.md").data.base_model
        except (OSError, ValueError, TypeError, yaml.YAMLError):  # no metadata, or none that can be read
            return
        bases = base if isinstance(base, list) else [base]
        yield from (name for name in bases if isinstance(name, str))


def _assistant_by_size(folder: Path, config: dict[str, Any]) -> str | None:
    templates = ("chat_template.jinja", "chat_template.json")
    tuned = any((folder / name).is_file() for name in templates)
    tuned = tuned or "chat_template" in read_json_if_there(folder / "tokenizer_config.json")
    if not tuned or not str(config.get("model_type")).startswith("gemma4"):
        return None
    text = read_part(config, "text_config") or config
    found = (text.get("hidden_size"), text.get("num_hidden_layers"))
    return next((f"google/gemma-4-{size}-it-assistant" for size, shape in SIZES.items() if shape == found), None)
