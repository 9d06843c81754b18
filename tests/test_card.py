"""The card of a conversion: metadata that the Hub can read, and commands that name the right models."""

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from mlx_gemma4_assist.checkpoints.pairing import assistant_for
from mlx_gemma4_assist.conversion.card import CardFacts, Source, card_text, read_source, write_card
from mlx_gemma4_assist.conversion.options import ConversionOptions
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.evaluation.acceptance import Acceptance
from mlx_gemma4_assist.evaluation.quality import Quality

GOOGLE = """---
license: apache-2.0
license_link: https://example.org/terms
language: [en, de]
pipeline_tag: any-to-any
base_model: google/gemma-4-E4B
library_name: transformers
---
# Gemma
"""
QUALITY = Quality(
    tokens=5432,
    kl=0.01234,
    top1=0.956,
    perplexity=(12.3456, 12.789),
    acceptance=(Acceptance(200, (150, 100, 50)), Acceptance(100, (70, 40, 20))),
)
FACTS = CardFacts(
    name="someone/gemma-4-E4B-it-4bit",
    source=Source("google/gemma-4-E4B-it", base_model="google/gemma-4-E4B-it", license="apache-2.0"),
    recipe="affine, 4 bits in groups of 64",
    bytes=5_210_000_000,
    bits_per_weight=4.504,
    command="python convert.py --hf-path google/gemma-4-E4B-it -q",
    companion="someone/gemma-4-E4B-it-4bit-assistant",
    quality=QUALITY,
)


@pytest.fixture
def cached(tmp_path):
    """A download, as the Hub's cache keeps it."""
    folder = tmp_path / "models--google--gemma-4-E4B-it" / "snapshots" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(GOOGLE)
    return folder


def saved(folder, facts):
    write_card(folder, facts)
    return ModelCard.load(folder / "README.md")


def test_what_a_source_tells(cached):
    found = read_source("google/gemma-4-E4B-it", cached)
    assert found == Source(
        "google/gemma-4-E4B-it",
        base_model="google/gemma-4-E4B-it",  # not what Google's own was made from
        license="apache-2.0",
        license_link="https://example.org/terms",
        language=["en", "de"],
        pipeline_tag="any-to-any",
    )
    assert read_source("google/gemma-4-E4B-it", cached, text_only=True).pipeline_tag == "text-generation"


@pytest.mark.parametrize(
    "card",
    [None, "", "# No metadata\n", "---\n[: no yaml\n---\n", "---\n- a list\n---\n", "---\n1: 2\n---\n", b"\xff\xfe"],
)
def test_a_source_that_tells_nothing(tmp_path, card):
    if card is not None:
        (tmp_path / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    assert read_source("mine", tmp_path) == Source("mine")


def test_where_a_source_lies_is_nobody_elses_business(tmp_path, cached, monkeypatch):
    folder = tmp_path / "private" / "mine"
    folder.mkdir(parents=True)
    assert read_source(str(folder), folder).name == "mine"
    assert read_source(f"{folder}/", folder).name == "mine"
    assert read_source(str(cached), cached).name == "google/gemma-4-E4B-it"
    monkeypatch.chdir(tmp_path)
    assert read_source("private/mine", folder).name == "mine"  # a folder, not a repo
    monkeypatch.chdir(folder)
    assert read_source(".", folder).name == "mine"
    text = tmp_path / "diary.txt"
    options = ConversionOptions(hf_path=folder, mlx_path=folder / "out", assistant_model=str(folder), text=text)
    assert options.command() == (
        "python -m mlx_gemma4_assist convert --hf-path mine --mlx-path out --assistant-model mine --text diary.txt"
    )
    assert "--assistant-model none" in replace(options, assistant_model="none").command()
    facts = replace(FACTS, source=read_source(str(folder), folder), command=options.command())
    assert str(tmp_path) not in card_text(facts)


def test_a_license_in_config_json(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    assert read_source("mine", tmp_path).license == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n")
    assert read_source("mine", tmp_path).license == "gemma"


def test_a_copy_of_a_copy_has_the_same_base_model(tmp_path):
    write_card(tmp_path, FACTS)
    assert read_source("mine", tmp_path).base_model == "google/gemma-4-E4B-it"
    (tmp_path / "README.md").write_text(GOOGLE)  # of an unknown repo: its base model is not the one it is made from
    assert read_source("mine", tmp_path).base_model is None


def test_metadata(tmp_path, cached):
    facts = replace(FACTS, source=read_source("google/gemma-4-E4B-it", cached))
    data = saved(tmp_path, facts).data.to_dict()
    assert data == {
        "base_model": "google/gemma-4-E4B-it",
        "base_model_relation": "quantized",
        "language": ["en", "de"],
        "library_name": "mlx",
        "license": "apache-2.0",
        "license_link": "https://example.org/terms",
        "pipeline_tag": "any-to-any",
        "tags": ["mlx", "gemma4", "speculative-decoding"],
    }


def test_metadata_of_a_source_without_a_name(tmp_path):
    """The Hub takes a base_model that is no repo for an error."""
    data = saved(tmp_path, replace(FACTS, source=Source("../my folder"))).data.to_dict()
    assert not {"base_model", "base_model_relation", "license"} & data.keys()
    data = saved(tmp_path, replace(FACTS, quantized=False)).data.to_dict()
    assert data["base_model"] == "google/gemma-4-E4B-it"
    assert "base_model_relation" not in data


def test_the_assistant_is_found_by_the_card(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    write_card(tmp_path, FACTS)
    assert assistant_for(tmp_path) == "google/gemma-4-E4B-it-assistant"


def test_target(tmp_path):
    text = saved(tmp_path, FACTS).text
    assert text.strip().startswith("# someone/gemma-4-E4B-it-4bit\n")
    for line in (
        "| format | affine, 4 bits in groups of 64 |",
        "| size | 5.21 GB, 4.50 bits/weight |",
        "python convert.py --hf-path google/gemma-4-E4B-it -q",
        "python -m mlx_gemma4_assist generate --model someone/gemma-4-E4B-it-4bit "
        "--assistant-model someone/gemma-4-E4B-it-4bit-assistant --prompt 'Why is the sky blue?'",
        "mlx_lm.generate --model someone/gemma-4-E4B-it-4bit --prompt 'Why is the sky blue?'",
        "| KL divergence, nats per token |  | 0.0123 |",
        "| same likeliest token |  | 95.6% |",
        "| perplexity | 12.35 | 12.79 |",
        "| draft 1 accepted | 75.0% | 70.0% |",
        "| draft 3 accepted | 25.0% | 20.0% |",
        "| tokens per round | 2.50 | 2.30 |",
    ):
        assert line in text.splitlines()
    assert "Its assistant is `someone/gemma-4-E4B-it-4bit-assistant`" in text
    assert "5,432 tokens" in text


def test_assistant(tmp_path):
    facts = replace(FACTS, name=FACTS.companion, companion=FACTS.name, is_assistant=True, bytes=1_730_000, quality=None)
    card = saved(tmp_path, facts)
    assert "assistant" in card.data.tags
    assert "for its target, `someone/gemma-4-E4B-it-4bit`" in card.text
    assert "| size | 1.73 MB, 4.50 bits/weight |" in card.text
    assert "--model someone/gemma-4-E4B-it-4bit --assistant-model someone/gemma-4-E4B-it-4bit-assistant" in card.text
    assert "mlx_lm" not in card.text  # it cannot load one
    assert "What the conversion cost" not in card.text


def test_without_the_other_one():
    alone = card_text(replace(FACTS, companion=None, quality=replace(QUALITY, acceptance=(None, None))))
    assert "ssistant" not in alone.replace("mlx_gemma4_assist", "").replace("without an assistant", "")
    assert "--assistant-model" not in alone
    assert "accepted" not in alone
    orphan = card_text(replace(FACTS, companion=None, is_assistant=True))
    assert "How to use it" not in orphan


def test_names_are_quoted(tmp_path):
    text = card_text(replace(FACTS, name="my models/it's", companion=None))
    assert """--model 'my models/it'"'"'s' --prompt""" in text
    assert "| format | 4 \\| 6 bits |" in card_text(replace(FACTS, recipe="4 | 6 bits"))


def test_a_card_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*README.md: No such file"):
        write_card(tmp_path / "gone", FACTS)
