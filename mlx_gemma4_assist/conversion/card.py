"""The model card of what has been converted: README.md, with the metadata that the Hub reads."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..checkpoints.hub import cached_repo, public_name
from ..errors import InputError
from ..files import read_json_if_there

if TYPE_CHECKING:
    from ..evaluation.quality import Quality

README = "README.md"
TEXT_GENERATION = "text-generation"
EXAMPLE = "Why is the sky blue?"
BUNDLED_TEXT = "8 KB of Jane Austen's novels, which come with mlx_gemma4_assist"


@dataclass(frozen=True)
class Source:
    """What is known of the model that was converted.

    Attributes:
        name: of a repo, a folder without its path, an alias.
        base_model: its repo on the Hub; None for a folder that does not tell.
        license, license_name, license_link, language, pipeline_tag: of its card, as they are there.
    """

    name: str
    base_model: str | list[str] | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: str | list[str] | None = None
    pipeline_tag: str | None = None


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: what is to be called from now on: a repo, or a folder's name.
        source: what it was made from.
        recipe: the formats in words, such as "affine, 4 bits in groups of 64".
        bytes: of all weights.
        bits_per_weight: bytes over parameters, in bits.
        command: the one that made it.
        companion: the assistant that belongs to this target, or the target that this assistant belongs to.
        is_assistant: which of the two this is.
        quantized: False for a conversion that changes at most the type.
        quality: what it cost, if that was measured.
        text: over which text, in words.
    """

    name: str
    source: Source
    recipe: str
    bytes: int
    bits_per_weight: float
    command: str
    companion: str | None = None
    is_assistant: bool = False
    quantized: bool = True
    quality: "Quality | None" = None
    text: str = BUNDLED_TEXT


def read_source(name: str, folder: Path, *, text_only: bool = False) -> Source:
    """What a checkpoint's own card, config and place in the Hub's cache tell about it. Nothing has to be there.

    Args:
        name: as the user gave it.
        folder: where it is.
        text_only: whether its towers are left out: then it is no longer for pictures or sound.
    """
    data = _card_data(folder)
    kept = ("license", "license_name", "license_link", "language", "pipeline_tag")
    found: dict[str, Any] = {field: data[field] for field in kept if data.get(field)}
    license = read_json_if_there(folder / "config.json").get("license")
    if "license" not in found and isinstance(license, str):
        found["license"] = license
    if text_only:
        found["pipeline_tag"] = TEXT_GENERATION
    return Source(public_name(name), _base_model(folder, data), **found)


def card_text(facts: CardFacts) -> str:
    """The whole README.md."""
    paragraphs = [f"# {facts.name}", _what(facts), *_figures(facts), *_how_made(facts), *_how_to_use(facts)]
    return f"---\n{_metadata(facts).to_yaml()}\n---\n\n" + "\n\n".join(paragraphs) + "\n"


def write_card(folder: Path, facts: CardFacts) -> None:
    """Write README.md; one that is there already is replaced.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        (folder / README).write_text(card_text(facts), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {folder / README}: {error.strerror}") from None


def _card_data(folder: Path) -> dict[str, Any]:
    """The metadata of a folder's card; empty where there is none, or none that can be read."""
    try:
        data: dict[str, Any] = ModelCard.load(folder / README, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
    return data


def _base_model(folder: Path, data: dict[str, Any]) -> str | list[str] | None:
    """The repo that a folder was downloaded from. A copy that MLX made earlier passes on what it was made from."""
    repo = cached_repo(folder)
    return repo if repo is not None else data.get("base_model") if data.get("library_name") == "mlx" else None


def _metadata(facts: CardFacts) -> ModelCardData:
    source = facts.source
    tags = ["mlx", "gemma4", "speculative-decoding", *(["assistant"] if facts.is_assistant else [])]
    data = ModelCardData(
        base_model=source.base_model,
        language=source.language,
        library_name="mlx",
        license=source.license,
        license_name=source.license_name,
        license_link=source.license_link,
        pipeline_tag=source.pipeline_tag or TEXT_GENERATION,
        tags=tags,
    )
    if source.base_model and facts.quantized:
        data["base_model_relation"] = "quantized"
    return data


def _what(facts: CardFacts) -> str:
    source = facts.source.base_model if isinstance(facts.source.base_model, str) else facts.source.name
    text = f"`{source}` for MLX, converted by mlx_gemma4_assist."
    if facts.companion is None:
        return text
    if facts.is_assistant:
        return (
            f"{text} It is an assistant: it drafts tokens for its target, `{facts.companion}`, and for no other model. "
            "The target still decides about each; what it writes can come faster."
        )
    return f"{text} Its assistant is `{facts.companion}`: it drafts tokens, so that text can come faster."


def _figures(facts: CardFacts) -> list[str]:
    size = f"{facts.bytes / 1e9:.2f} GB" if facts.bytes >= 1e8 else f"{facts.bytes / 1e6:.2f} MB"
    table = _table(("", ""), [("format", facts.recipe), ("size", f"{size}, {facts.bits_per_weight:.2f} bits/weight")])
    return ["## Format", table, *([] if facts.quality is None else _quality(facts, facts.quality))]


def _quality(facts: CardFacts, quality: "Quality") -> list[str]:
    whose = "target's" if facts.is_assistant else "model's"
    about = (
        f"Measured by mlx_gemma4_assist on {quality.tokens:,} tokens: {facts.text}. KL divergence is between the "
        f"original {whose} distribution of the next token and the converted one's, on average."
    )
    if any(quality.acceptance):
        about += (
            " Drafts are made from each token of texts that the original target wrote, greedily, by both pairs; one is "
            "accepted if it is what the pair's own target would write next. The shares are of all rounds."
        )
    return ["## What the conversion cost", about, _table(("", "original", "converted"), quality.table())]


def _how_made(facts: CardFacts) -> list[str]:
    return ["## How it was made", _shell(facts.command)]


def _how_to_use(facts: CardFacts) -> list[str]:
    target, assistant = (facts.companion, facts.name) if facts.is_assistant else (facts.name, facts.companion)
    if target is None:
        return []
    pair = ["--model", target, *([] if assistant is None else ["--assistant-model", assistant])]
    ours = ["python", "-m", "mlx_gemma4_assist"]
    lines = [shlex.join([*ours, "generate", *pair, "--prompt", EXAMPLE]), shlex.join([*ours, "chat", *pair])]
    parts = ["## How to use it", "With mlx_gemma4_assist:", _shell("\n".join(lines))]
    if not facts.is_assistant:
        command = shlex.join(["mlx_lm.generate", "--model", target, "--prompt", EXAMPLE])
        parts += ["With mlx-lm, text only and without an assistant:", _shell(f"pip install mlx-lm\n{command}")]
    return parts


def _shell(commands: str) -> str:
    return f"```bash\n{commands}\n```"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
