"""What a checkpoint is, as the protocols tell of it; its weights are not read."""

from collections.abc import Sequence
from pathlib import Path

from ..checkpoints.loading import config_dtype
from ..checkpoints.pairing import SIZES
from ..engine.pair import Checkpoint, PathOrRepo
from ..errors import InputError, OptionError
from ..files import read_json, read_part
from ..media.config import MediaConfig, MediaOptions, read_media_config
from ..text.renderer import Renderer
from .exchange import Model


def model_of(checkpoint: Checkpoint, name: str | None, aliases: Sequence[str], context: int, max_tokens: int) -> Model:
    """The facts of a checkpoint.

    Args:
        checkpoint: the target, and its assistant.
        name: by which it is served; None takes the repo's, or the folder's own.
        aliases: other names.
        context: the most tokens of prompt and answer together.
        max_tokens: of an answer that sets no limit.
    """
    folder, config = checkpoint.folder, read_json(checkpoint.folder / "config.json")
    media = media_config(folder)
    bits = read_part(config, "quantization").get("bits")
    assistant, renderer = checkpoint.assistant, Renderer(checkpoint.processor)
    return Model(
        id=name or _name(checkpoint.source.path_or_repo),
        aliases=tuple(aliases),
        created=int((folder / "config.json").stat().st_mtime),
        context=context,
        max_tokens=max_tokens,
        pictures=media is not None and media.has_vision,
        sound=media is not None and media.has_audio,
        video=media is not None and media.has_vision,
        thinking=renderer.thinks,
        tools=renderer.takes_tools,
        parameters=_size(checkpoint.config.hidden_size, checkpoint.config.num_hidden_layers),
        quantization="" if bits is None else f"{bits}bit",
        dtype=str(checkpoint.source.dtype or config_dtype(config) or "").removeprefix("mlx.core."),
        size=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        assistant=None if assistant is None else _name(assistant.path_or_repo),
    )


def media_config(folder: Path) -> MediaConfig | None:
    """How a checkpoint wants media prepared; None if it reads text only."""
    try:
        found = read_media_config(folder)
    except InputError:
        return None
    return found if found.has_vision or found.has_audio else None


def check_media_options(checkpoint: Checkpoint, options: MediaOptions) -> None:
    """Refuse what only pictures could heed, where the model takes none.

    Raises:
        OptionError: with the option.
    """
    asked = next((name for name, value in vars(options).items() if value is not None), None)
    if asked is None:
        return
    media = media_config(checkpoint.folder)
    if media is None or not media.has_vision:
        named = _name(checkpoint.source.path_or_repo)
        raise OptionError(f"{{{asked}}} is for pictures, and {{named}} takes none", named=named)


def _name(path_or_repo: PathOrRepo) -> str:
    """A repo's name, or a folder's own: where it is concerns nobody."""
    folder = Path(path_or_repo).expanduser()
    return folder.absolute().name if folder.is_dir() else str(path_or_repo)


def _size(hidden: int, layers: int) -> str:
    """The published name of a size; empty for others."""
    return next((name for name, shape in SIZES.items() if shape == (hidden, layers)), "")
