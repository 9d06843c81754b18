"""Arguments that name a folder in which something has to be, for a clear line where it is not."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def folder_with(file: str, written_by: str) -> Callable[[str], Path]:
    """A type for `add_argument`: a folder with a file, or a pattern of files, that another script writes."""

    def folder(text: str) -> Path:
        if not Path(text).is_dir():
            raise ArgumentTypeError(f"there is no folder {text!r}")
        if next(Path(text).glob(file), None) is None:
            raise ArgumentTypeError(f"{text!r} has no {file}: {written_by}")
        return Path(text)

    return folder


CORPUS = folder_with("corpus.json", "data.py writes it")
TOKENIZER = folder_with("tokenizer.json", "train_tokenizer.py writes it")
TRAINED = folder_with("config.json", "train_target.py writes it")
