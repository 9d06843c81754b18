"""The C++ engine: the package's text, its refusals, its end."""

import json
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.bundles import edited, known
from support.native import build, has_compiler, make, refusal
from support.paths import ASSETS

from mlx_gemma4_assist import load, load_assistant, stream_generate
from mlx_gemma4_assist.bundle.writing import ExportOptions, export
from mlx_gemma4_assist.drafts.learned import AutoDraftLength
from mlx_gemma4_assist.engine.pair import Checkpoint

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the C++ engine is built with g++, and there is none here")

TOKENS = 1500
DRAWN = ("--temperature", "0.9", "--top-k", "40", "--top-p", "0.95", "--min-p", "0.02", "--seed", "7")
SAMPLING = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "seed": 7}
BLOCKS = {"draft_temperature": 1.0}
WAYS = {
    "likeliest": ((), {}),
    "drawn": (DRAWN, SAMPLING),
    "drawn, drafts too": ((*DRAWN, "--draft-temperature", "1"), SAMPLING | BLOCKS),
}
MIXED = "0,3,8,1,5,2,2,7"
CASES = [(way, drafts) for way in ("likeliest", "drawn") for drafts in ("0", "3", MIXED, "learned")]
CASES += [("drawn, drafts too", "3")]


@pytest.fixture(scope="session")
def runner(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("native"), extra=["tests/drafts", "tests/fuzz"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Of the embedded pair."""
    return export(Checkpoint.open("tiny"), tmp_path_factory.mktemp("bundle") / "tiny.bundle", ExportOptions())


@pytest.fixture(scope="module")
def tiny():
    return (*load("tiny"), load_assistant("tiny-assistant"))


@pytest.fixture(scope="module")
def prompt(tiny) -> list[int]:
    """Longer than two pieces."""
    text = (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8")
    return tiny[1].encode(text, chat=False)[:150]


@pytest.fixture(scope="module")
def texts(tiny, prompt):
    """The package's, by the way of drawing."""
    model, processor, assistant = tiny

    def text(options) -> list[int]:
        made = stream_generate(
            model, processor, prompt, assistant, max_tokens=TOKENS, num_assistant_tokens=3, **options
        )
        return [each.token for each in made]

    return {way: text(options) for way, (_, options) in WAYS.items()}


@pytest.mark.parametrize(("way", "drafts"), CASES)
def test_the_text_is_the_packages(runner, bundle, prompt, texts, way, drafts):
    """Through many buckets, buffers that grow, and rings that wrap; compiled where a number of drafts stays the same."""
    compiled = "1" if drafts in ("0", "3") else "0"
    options = ("--drafts", drafts, "--max-tokens", str(TOKENS), "--compile", compiled, *WAYS[way][0])
    (text,) = make(runner, bundle, [prompt], *options)
    assert len(text.tokens) == len(texts[way]) == TOKENS
    assert text.tokens == texts[way]
