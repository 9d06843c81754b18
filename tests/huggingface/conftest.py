"""A checkpoint that sees, its assistant and its processor, read by the façade."""

import pytest
from support import huggingface as helpers

from mlx_gemma4_assist.huggingface import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return helpers.make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "target")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(helpers.save_picture(tmp_path_factory.mktemp("pictures") / "picture.png"))


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForImageTextToText.from_pretrained(folder)


@pytest.fixture(scope="module")
def assistant():
    return AutoModelForCausalLM.from_pretrained(helpers.ASSISTANT)


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder, padding_side="left")
