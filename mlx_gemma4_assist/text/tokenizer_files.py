"""The files of a checkpoint's folder that make its tokenizer."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..environment import mend_endpoint
from ..errors import InputError
from ..extras import library
from ..files import read_json
from .importing import one_at_a_time
from .panics import refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """transformers' tokenizer, with the checkpoint's chat template if there is one.

    Raises:
        InputError: tokenizer.json is missing, and there is no tokenizer.model instead or nothing to read it with; one
            of the files is damaged.
    """
    if not (folder / "tokenizer.json").is_file():
        _check_sentencepiece(folder)
    # Silences the advice to install PyTorch, which is not needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Imported late, for it takes a second. AutoTokenizer, other than this class, would import PyTorch if it is there.
    mend_endpoint()
    with one_at_a_time:
        from transformers import PreTrainedTokenizerFast

    with refused(f"the tokenizer files of {folder} are damaged"):
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if tokenizer.chat_template is None and (folder / "chat_template.json").is_file():
        tokenizer.chat_template = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(tokenizer.chat_template, str):  # a byte order mark would stand at the beginning of every prompt
        tokenizer.chat_template = tokenizer.chat_template.removeprefix("\ufeff")
    return tokenizer


def _check_sentencepiece(folder: Path) -> None:
    """Refuse a folder without tokenizer.json, unless transformers can make one of its tokenizer.model.

    Raises:
        InputError: there is none, it is damaged, or the libraries that read it are missing.
    """
    file = folder / "tokenizer.model"
    if not file.is_file():
        raise InputError(f"{folder} has no tokenizer.json")
    reading = f"{folder} has no tokenizer.json, and reading its tokenizer.model"
    library("google.protobuf", reading, "sentencepiece")  # transformers reads the file with it
    sentencepiece = library("sentencepiece", reading, "sentencepiece")
    try:
        whole = sentencepiece.SentencePieceProcessor(model_file=str(file)).get_piece_size() > 0
    except (RuntimeError, OSError, ValueError):  # ValueError: a message that quotes a piece which is no UTF-8
        whole = False
    if not whole:
        raise InputError(f"the tokenizer files of {folder} are damaged: tokenizer.model is not SentencePiece's")
