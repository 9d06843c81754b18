"""What was learned of draft lengths, kept from session to session. Pure Python.

One small JSON file per target, assistant, quantization and chip, in ``MLX_GEMMA4_ASSIST_CACHE``, else in
``mlx_gemma4_assist`` below ``XDG_CACHE_HOME`` or ``~/.cache``. It only ever saves a session some rounds of learning, so
nothing about it is an error: what cannot be read or written is left alone, and a note says so, for the caller to show.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ..files import replacing
from .learned import Learned

FOLDER_VARIABLE = "MLX_GEMMA4_ASSIST_CACHE"
VERSION = 1
LARGEST_FILE = 64 * 1024


class DraftKey(NamedTuple):
    """What the learned figures hold for. Equal strings must mean equal speed and acceptance.

    Attributes:
        target, assistant: names or fingerprints of the networks.
        quantization: of both.
        chip: the machine.
    """

    target: str
    assistant: str
    quantization: str
    chip: str


class DraftMemory:
    """The files of one folder.

    Args:
        folder: None is the user's cache folder.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        self._folder = None if folder is None else Path(folder).expanduser()

    def load(self, key: DraftKey) -> tuple[Learned | None, str | None]:
        """What is known, None if nothing is; and a note if there is a file that is no good."""
        try:
            path = self.path(key)
            with path.open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except FileNotFoundError:
            return None, None
        except (OSError, RuntimeError) as error:
            return None, f"what was learned of draft lengths cannot be read: {error}"
        try:
            return _parse(content, key), None
        except (ValueError, RecursionError) as error:
            return None, f"{path} is ignored: {error}"

    def save(self, key: DraftKey, learned: Learned) -> str | None:
        """Keep it, in place of what was there; a note if that cannot be done.

        Written beside the old file and renamed: other processes see the old one or the new one, and the last wins.
        """
        content = json.dumps({"version": VERSION, "key": key._asdict(), "learned": asdict(learned)})
        try:
            path = self.path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(content.encode())
        except (OSError, RuntimeError) as error:
            return f"what was learned of draft lengths cannot be kept: {error}"
        return None

    def path(self, key: DraftKey) -> Path:
        """Where a key's file is. RuntimeError: there is no home folder."""
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        return (self._folder or cache_folder()) / f"draft-length-{name}.json"


def cache_folder() -> Path:
    """The user's cache folder for this package. RuntimeError: there is no home folder."""
    if own := os.environ.get(FOLDER_VARIABLE):
        return Path(own).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification asks for relative paths to be ignored.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "mlx_gemma4_assist"


def _parse(content: bytes, key: DraftKey) -> Learned:
    """ValueError: anything but a file that ``save`` has written for this key."""
    if len(content) > LARGEST_FILE:
        raise ValueError(f"more than {LARGEST_FILE} bytes")
    found = json.loads(content)
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(f"not of version {VERSION}")
    if found.get("key") != key._asdict():
        raise ValueError("written for another target, assistant, quantization or chip")
    values = found.get("learned")
    names = list(Learned.__dataclass_fields__)
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError(f"'learned' is not made of {', '.join(names)}")
    if not all(isinstance(values[name], list) for name in names):
        raise ValueError("'learned' is not made of lists")
    return Learned(**{name: tuple(values[name]) for name in names})
