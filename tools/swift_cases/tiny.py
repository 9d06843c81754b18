"""The embedded pair as a bundle, and what the package makes of it, for Swift's tests: tiny.py FOLDER."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx_gemma4_assist
from mlx_gemma4_assist import ChatSession, load, load_assistant, stream_generate

MODEL, ASSISTANT = "tiny", "tiny-assistant"
PROMPT, LONG, TOKENS, FEW = 150, 3000, 600, 150
DRAWN = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "seed": 7}
WAYS: dict[str, dict[str, Any]] = {
    "likeliest": {},
    "drawn": DRAWN,
    "drawn, drafts too": DRAWN | {"draft_temperature": 1.0},
}
SYSTEM = "Be brief."
QUESTIONS = ("The wall was high, and", "Who came back?", "Where is the river?")


def bundle(folder: Path) -> None:
    """Written by the command. It is not compared with the package: the tests do."""
    out = str(folder / "tiny.bundle")
    command = [
        sys.executable,
        "-m",
        "mlx_gemma4_assist",
        "export",
        "--model",
        MODEL,
        "--out",
        out,
        "--copy-weights",
        "--no-check",
    ]
    subprocess.run(command, check=True)


def texts() -> dict[str, Any]:
    """Prompts, and tokens by the way of drawing."""
    model, processor = load(MODEL)
    assistant = load_assistant(ASSISTANT)
    words = Path(mlx_gemma4_assist.__file__).parent / "assets" / MODEL / "heldout.txt"
    ids = processor.encode(words.read_text(encoding="utf-8"), chat=False)

    def text(options: dict[str, Any], tokens: int) -> dict[str, Any]:
        made = list(
            stream_generate(
                model, processor, ids[:PROMPT], assistant, max_tokens=tokens, num_assistant_tokens=3, **options
            )
        )
        return {"tokens": [each.token for each in made], "text": "".join(each.text for each in made)}

    said = {way: text(options, FEW if "draft_temperature" in options else TOKENS) for way, options in WAYS.items()}
    return {"prompt": ids[:PROMPT], "long": ids[:LONG], "texts": said}


def conversation() -> dict[str, Any]:
    """What the package answers, turn by turn."""
    options = {"max_tokens": 40, "num_assistant_tokens": 3}
    with ChatSession.open(MODEL, system_prompt=SYSTEM, options=options) as session:
        answers = ["".join(piece.text for piece in session.send(question)) for question in QUESTIONS]
    return {"system": SYSTEM, "questions": QUESTIONS, "answers": answers}


def main() -> None:
    folder = Path(sys.argv[1])
    bundle(folder)
    (folder / "texts.json").write_text(json.dumps(texts()))
    (folder / "conversation.json").write_text(json.dumps(conversation()))


if __name__ == "__main__":
    main()
