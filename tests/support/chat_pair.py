"""A tiny multimodal pair with random weights that speaks Gemma 4's chat format: thoughts, calls, pictures."""

from pathlib import Path

from support import media
from support.byte_tokenizer import byte_tokenizer
from support.chat_format import CONTROL, TEMPLATES
from support.multimodal import write_pair

MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("▁", "a"), ("e", "r"))
SPECIAL = (*media.SPECIAL, *(name for name in CONTROL if name not in media.SPECIAL))


def write_chat_pair(folder: Path, form: str) -> Path:
    """As ``write_pair``, with a tokenizer and a template of one of the format's two forms."""
    write_pair(folder)
    letters = [chr(code) for code in range(33, 127)]
    words = ["▁", "\n", *letters, *("".join(pair) for pair in MERGES)]
    byte_tokenizer(words, MERGES, SPECIAL).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATES[form])
    return folder
