"""How a checkpoint wants text to be drawn."""

from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..files import read_json_if_there
from ..options import FILTERS, GenerationOptions

GENERATION_CONFIG = "generation_config.json"


def sampling_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint's generation_config.json says, as options; nothing if it decodes greedily.

    Raises:
        InputError: the file is damaged, or wants what is out of range.
    """
    config = read_json_if_there(folder / GENERATION_CONFIG)
    if config.get("do_sample") is not True:
        return {}
    found = {"temperature": 1.0} | {name: config[name] for name in FILTERS if config.get(name) is not None}
    try:
        GenerationOptions(**found)
    except OptionError as error:
        raise InputError(f"{folder / GENERATION_CONFIG}: {error}") from None
    return found
