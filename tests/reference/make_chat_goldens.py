"""Writes what Google's chat templates make of made-up conversations: tests/goldens/chat_format.json.

    PYTHONPATH=tests:. python tests/reference/make_chat_goldens.py --full TEMPLATE --compact TEMPLATE

The templates are those of google/gemma-4-31B-it and google/gemma-4-E2B-it (2026-07-09), which are not part of this
repository.
"""

import argparse
import json
import tempfile
from pathlib import Path

from support.chat_format import Conversations, chat_processor
from support.paths import TESTS

COUNT = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for form in ("full", "compact"):
        parser.add_argument(f"--{form}", type=Path, required=True)
    arguments = parser.parse_args()
    made = [Conversations(seed).conversation() for seed in range(COUNT)]
    texts = {form: rendered(made, path) for form, path in vars(arguments).items()}
    rows = [one | {form: texts[form][i] for form in texts} for i, one in enumerate(made)]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (TESTS / "goldens" / "chat_format.json").write_text(f"[\n{lines}\n]\n")


def rendered(conversations: list[dict], template: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = chat_processor(Path(folder) / "tokenizer", template.read_text()).tokenizer
    return [
        tokenizer.apply_chat_template(
            one["messages"],
            tools=one["tools"] or None,
            enable_thinking=one["thinking"],
            add_generation_prompt=True,
            tokenize=False,
        )
        for one in conversations
    ]


if __name__ == "__main__":
    main()
