"""Every option once: read, checked, spelled for Python and for the command line."""

import inspect
from dataclasses import fields

import numpy as np
import pytest

from mlx_gemma4_assist import GenerationOptions, generate, stream_generate
from mlx_gemma4_assist.errors import InputError, OptionError
from mlx_gemma4_assist.options import MAX_DRAFTS, OptionValues, flags


def identity(tokens, logits):
    return logits


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("top_k", 5.0, 5),
        ("max_tokens", np.int64(7), 7),
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", 1, 1.0),
        ("temperature", 1e-30, 1e-30),
        ("temperature", 1e-40, 0.0),  # a float32 divided by it is no number
        ("draft_temperature", 1e-300, 0.0),
        ("seed", 2**64 - 1, 2**64 - 1),
        ("stop", None, ()),
        ("stop", "end", ("end",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("logits_processors", None, ()),
        ("logits_processors", [identity], (identity,)),
        ("logit_bias", {5: 1}, ((5, 1.0),)),
        ("logit_bias", ((5, 1), (6, -2.5)), ((5, 1.0), (6, -2.5))),
        ("logit_bias", "5=-100", ((5, -100.0),)),
        ("logit_bias", ["5=1", '{"6": -2.5, "5": 3}'], ((5, 3.0), (6, -2.5))),
        ("logit_bias", None, ()),
        ("num_assistant_tokens", 0, 0),
        ("num_assistant_tokens", MAX_DRAFTS, MAX_DRAFTS),
        ("compile", None, None),
        ("compile", False, False),
        ("seed", None, None),
    ],
)
def test_what_is_plain_is_taken(name, given, read):
    found = getattr(GenerationOptions(**{name: given}), name)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", 0, "a positive integer"),
        ("max_tokens", True, "a positive integer"),
        ("max_tokens", "12", "a positive integer"),
        ("max_tokens", None, "a positive integer"),
        ("temperature", -1, "0 or more"),
        ("temperature", float("nan"), "0 or more"),
        ("temperature", float("inf"), "0 or more"),
        ("temperature", "hot", "0 or more"),
        ("top_p", 1.5, "0 to 1"),
        ("top_p", None, "0 to 1"),
        ("top_k", -1, "0 or a positive integer"),
        ("top_k", 5.5, "0 or a positive integer"),
        ("min_p", float("nan"), "0 to 1"),
        ("draft_temperature", -0.5, "0 or more"),
        ("seed", -1, "an integer from 0 to 2"),
        ("seed", 2**64, "an integer from 0 to 2"),
        ("seed", 0.5, "an integer from 0 to 2"),
        ("num_assistant_tokens", MAX_DRAFTS + 1, f"0 to {MAX_DRAFTS}"),
        ("num_assistant_tokens", -1, f"0 to {MAX_DRAFTS}"),
        ("stop", "", "a string that is not empty"),
        ("stop", [""], "a string that is not empty"),
        ("stop", b"abc", "a string that is not empty"),
        ("stop", 3, "a string that is not empty"),
        ("logits_processors", [3], "functions"),
        ("logits_processors", identity, "functions"),
        ("compile", 1, "True, False or None"),
        ("logit_bias", "5", "ids and what is added"),
        ("logit_bias", "five=1", "ids and what is added"),
        ("logit_bias", '{"5": true}', "ids and what is added"),
        ("logit_bias", '{"5": Infinity}', "ids and what is added"),
        ("logit_bias", ["5=1", "-6=1"], "ids and what is added"),
        ("logit_bias", {"5": 1}, "ids and what is added"),
        ("prefill_step_size", 0, "a positive integer"),
        ("kv_bits", 3, "4 or 8"),
        ("kv_bits", True, "4 or 8"),
        ("kv_group_size", 48, "32, 64 or 128"),
        ("quantized_kv_start", -1, "0 to 2"),
        ("quantized_kv_start", 2**30 + 1, "0 to 2"),
    ],
)
def test_what_is_not_is_refused_in_the_words_of_whoever_asked(name, value, expected):
    with pytest.raises(InputError) as caught:
        GenerationOptions(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}, expected {expected}")
    typed = flags(name)[0]
    assert caught.value.spelled({name: typed}).startswith(f"{typed} is {value!r}, expected {expected}")


def test_biases_that_are_nested_without_end():
    with pytest.raises(InputError, match="expected ids and what is added"):
        GenerationOptions(logit_bias='{"a":' * 20_000)


def test_options_that_contradict_each_other():
    with pytest.raises(OptionError, match="draft_temperature needs a temperature above 0") as caught:
        GenerationOptions(draft_temperature=0.5)
    typed = {name: flags(name)[0] for name in ("temperature", "draft_temperature")}
    assert caught.value.spelled(typed).startswith("--draft-temperature needs a --temp above 0")
    assert GenerationOptions(draft_temperature=0.0).greedy


def test_each_option_is_one():
    """The fields, the keywords' types and what help shows are the same options with the same defaults."""
    names = [each.name for each in fields(GenerationOptions)]
    assert list(OptionValues.__annotations__) == names
    for function in (stream_generate, generate):
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].default for name in names} == {
            each.name: each.default for each in fields(GenerationOptions)
        }
    assert len({flag for name in names for flag in flags(name)}) >= len(names)
    assert all(f"{name}" in GenerationOptions.__doc__ for name in names)


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="temprature"):
        GenerationOptions(temprature=1.0)
