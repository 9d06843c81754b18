"""Prompts with pictures, sound and video to token ids and arrays: equal to the reference's processors."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import media as helpers
from support.media import save_video, soft_tokens

from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.huggingface.prompts import named_arrays
from mlx_gemma4_assist.media.config import MediaOptions
from mlx_gemma4_assist.media.prepared import PreparedPrompt
from mlx_gemma4_assist.media.processor import MediaProcessor
from mlx_gemma4_assist.text.messages import Kind, Media

KINDS = ("gemma4", "gemma4_unified")
NAMES = tuple(helpers.conversations(dict.fromkeys(helpers.SOURCES)))
PICTURE, SOUND, VIDEO = Kind.PICTURE, Kind.SOUND, Kind.VIDEO


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return helpers.write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def processor(kind):
    return MediaProcessor.from_pretrained(helpers.GOLDENS / kind)


@pytest.fixture(scope="module")
def golden(kind):
    folder = helpers.GOLDENS / kind
    return json.loads((folder / "golden.json").read_text()), np.load(folder / "golden.npz")


@pytest.fixture(scope="module")
def gemma4():
    return MediaProcessor.from_pretrained(helpers.GOLDENS / "gemma4")


# The reference


@pytest.fixture(scope="module")
def with_files(sources, tmp_path_factory):
    """The sources, videos in files."""
    folder = tmp_path_factory.mktemp("videos")
    return {
        name: str(save_video(folder / f"{name}.mkv", source)) if name.endswith("_video") else source
        for name, source in sources.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_reference(name, with_files, processor, golden):
    messages, options = helpers.conversations(with_files)[name]
    out = named_arrays(processor.encode(messages, options=MediaOptions(**options)))
    shapes, arrays = golden
    # transformers' load_image drops the transparency of files. Here they are as PIL's images, on white.
    name = name.replace("see-through file", "see-through image")
    assert {key: [*value.shape, str(value.dtype)] for key, value in out.items()} == shapes[name]
    expected = {key.partition("/")[2]: arrays[key] for key in arrays.files if key.partition("/")[0] == name}
    for key in ("input_ids", "mm_token_type_ids", "input_features_mask", "num_frames_per_video"):
        np.testing.assert_array_equal(out.get(key), expected.get(key))
    if "input_features" in expected:
        np.testing.assert_allclose(out["input_features"], expected["input_features"], rtol=0, atol=1e-5)
    for pixels, positions in (("pixel_values", "image_position_ids"), ("pixel_values_videos", "video_position_ids")):
        if pixels in expected:
            np.testing.assert_array_equal(out[positions].sum(1), expected[positions])
            difference = helpers.sample(out[pixels], out[positions]).astype(int) - expected[pixels]
            # Pillow and torchvision round differently, and so do decoders of JPEG.
            assert np.abs(difference).max() <= 2
            assert np.abs(difference).mean() < 0.02


def test_pictures_of_the_same_library_are_exactly_equal(sources, gemma4):
    """For the unified model the reference has torchvision's processor only."""
    messages, _ = helpers.conversations(sources)["two pictures"]
    out = named_arrays(gemma4.encode(messages))
    expected = np.load(helpers.GOLDENS / "gemma4" / "golden.npz")["two pictures/pixel_values"]
    np.testing.assert_array_equal(helpers.sample(out["pixel_values"], out["image_position_ids"]), expected)


def test_soft_tokens_of_the_photograph(gemma4):
    """600 x 512 pixels fit 18 x 15 soft tokens of 48 x 48 pixels into 280."""
    tokens, (photo,), *_ = gemma4.encode("Who?", Media(pictures=(helpers.PHOTO,)))
    assert photo.kind == PICTURE
    assert photo.content.soft_tokens == photo.end - photo.start == 18 * 15
    assert set(tokens[photo.start : photo.end]) == {helpers.SPECIAL.index("<|image|>")}
    assert tokens[photo.start - 1] == helpers.SPECIAL.index("<|image>")
    assert tokens[photo.end] == helpers.SPECIAL.index("<image|>")


def test_every_placeholder_has_its_soft_tokens(processor, sources):
    """Kinds in any order, several frames to a video: what a source shows is where the prompt shows it."""
    wide, tall, sound, video = (sources[name] for name in ("wide", "tall", "mono", "short_video"))
    parts = [("video", video), ("image", tall), "and", ("audio", sound), ("image", wide), ("video", video[:2])]
    prompt = processor.encode([helpers.user(*parts)])
    assert [each.kind for each in prompt.media] == [VIDEO] * 5 + [PICTURE, SOUND, PICTURE] + [VIDEO] * 2
    assert prompt.video_frames == (5, 2)
    placeholders = {helpers.SPECIAL.index(f"<|{name}|>") for name in ("image", "audio", "video")}
    covered = [position for each in prompt.media for position in range(each.start, each.end)]
    assert covered == [i for i, token in enumerate(prompt.tokens) if token in placeholders]
    alone = processor.encode("?", Media(pictures=(tall,))).media[0].content
    np.testing.assert_array_equal(prompt.media[5].content.patches, alone.patches)


def test_a_sound_beside_a_longer_one_is_the_same(processor, sources):
    """Else a kept cache would not know it again when the conversation goes on."""
    alone = processor.encode("?", Media(sounds=(sources["mono"],))).media[0].content
    beside = processor.encode("?", Media(sounds=(sources["mono"], sources["stereo"]))).media[0].content
    np.testing.assert_array_equal(beside.features, alone.features)
    np.testing.assert_array_equal(beside.heard, alone.heard)


@pytest.mark.parametrize("budget", [70, 140, 280, 560, 1120])
def test_budgets(gemma4, budget):
    options = MediaOptions(max_soft_tokens=budget)
    (count,) = soft_tokens(gemma4.encode("?", Media(pictures=(helpers.PHOTO,)), options=options), PICTURE)
    assert 0.8 * budget < count <= budget


def test_text_in_front_of_a_base_model(gemma4, sources):
    picture = sources["wide"]
    raw = gemma4.encode("See <|image|>: ", Media(pictures=(picture,)), chat=False)
    bos, image = helpers.SPECIAL.index("<bos>"), helpers.SPECIAL.index("<|image|>")
    assert raw.tokens[0] == bos
    assert raw.tokens.count(bos) == 1
    (shown,) = raw.media
    assert raw.tokens.count(image) == shown.content.soft_tokens
    assert set(raw.tokens[shown.start : shown.end]) == {image}


def test_text_and_ids_are_left_to_the_text_processor(gemma4):
    for prompt, options in (("hello", {}), ("hello", {"chat": False}), ([2, 5, 6], {})):
        assert gemma4.encode(prompt, **options) == PreparedPrompt(gemma4.text.encode(prompt, **options))


def test_spelling_of_other_libraries(gemma4, sources):
    data = base64.b64encode(Path(sources["wide"]).read_bytes()).decode()
    spellings = [
        {"type": "image", "path": sources["wide"]},
        {"type": "image", "url": sources["wide"]},
        {"type": "image", "base64": data},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": sources["wide"]},
    ]
    expected = gemma4.encode([helpers.user(("image", sources["wide"]), "?")])
    for part in spellings:
        prompt = gemma4.encode([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}])
        assert prompt.tokens == expected.tokens
        np.testing.assert_array_equal(prompt.media[0].content.patches, expected.media[0].content.patches)


def test_settings_of_older_spelling(tmp_path, kind, processor, sources):
    """Flat files: preprocessor_config.json for pictures and sound alike, one of its own for video."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(helpers.GOLDENS / kind / name, tmp_path / name)
    nested = json.loads((helpers.GOLDENS / kind / "processor_config.json").read_text())
    flat = nested["feature_extractor"] | nested["image_processor"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(flat))
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(nested["video_processor"]))
    older = MediaProcessor.from_pretrained(tmp_path, processor.text)
    assert older.config.unified == (kind == "gemma4_unified")
    messages, _ = helpers.conversations(sources)["everything"]
    expected, out = (named_arrays(each.encode(messages)) for each in (processor, older))
    assert expected.keys() == out.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(out[name], value)


def test_published_settings_are_used(tmp_path, gemma4, sources):
    """Not the defaults of transformers' classes."""
    nested = json.loads((helpers.GOLDENS / "gemma4" / "processor_config.json").read_text())
    nested["image_processor"]["max_soft_tokens"] = 140
    nested["video_processor"]["num_frames"] = 3
    nested["feature_extractor"]["per_bin_mean"] = [1.0] * 128
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    other = MediaProcessor.from_pretrained(tmp_path, gemma4.text)
    messages, _ = helpers.conversations(sources)["everything"]
    usual, out = gemma4.encode(messages), other.encode(messages)
    assert max(soft_tokens(out, PICTURE)) <= 140 < min(soft_tokens(usual, PICTURE))
    assert out.video_frames == (3,)
    ours, theirs = (next(each.content for each in prompt.media if each.kind == SOUND) for prompt in (out, usual))
    np.testing.assert_allclose(ours.features, theirs.features - theirs.heard[:, None], atol=1e-5)


# Options and limits


def test_a_line_is_no_picture_for_the_model(gemma4):
    wide = gemma4.encode("?", Media(pictures=(np.zeros((2, 3000, 3), np.uint8),)))
    assert soft_tokens(wide, PICTURE) == [280]
    with pytest.raises(InputError, match="max_soft_tokens is 100, expected one of 70, 140, 280, 560, 1120"):
        MediaOptions(max_soft_tokens=100)


def test_what_the_model_does_not_hear_is_said(gemma4):
    prompt = gemma4.encode("?", Media(sounds=(np.zeros(16_000 * 32, np.float32), np.zeros(16_000, np.float32))))
    assert prompt.notes == ("the ndarray given lasts 32 seconds, of which the model hears the first 30",)
    assert soft_tokens(prompt, SOUND) == [750, 25]


def test_a_sound_too_short_to_be_heard(gemma4):
    with pytest.raises(InputError, match="is too short to be heard"):
        gemma4.encode("?", Media(sounds=(np.zeros(50, np.float32),)))


def test_options_of_video(gemma4):
    source = Media(videos=({"frames": helpers.video(40), "fps": 10},))
    usual = gemma4.encode("?", source)
    few = gemma4.encode("?", source, options=MediaOptions(num_frames=4, frame_soft_tokens=140))
    assert (usual.video_frames, few.video_frames) == ((32,), (4,))
    assert soft_tokens(usual, VIDEO)[0] <= 70 < soft_tokens(few, VIDEO)[0] <= 140
    assert gemma4.encode("?", source, options=MediaOptions(fps=1)).video_frames == (4,)
    text = gemma4.text.decode(few.tokens)
    assert [stamp in text for stamp in ("00:00", "00:01", "00:02", "00:03")] == [True] * 4
    for wrong in ({"num_frames": 0}, {"fps": 0}, {"fps": 1, "num_frames": 1}, {"frame_soft_tokens": 1}):
        with pytest.raises(InputError):
            MediaOptions(**wrong)


# Conversations and checkpoints


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the prompt is empty"),
        ([helpers.user(("image", None))], "message 1 has a part of type 'image' that needs exactly one of image, url"),
        ([{"role": "user", "content": [{"type": "image"}]}], "needs exactly one of"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a", "url": "b"}]}], "needs exactly one of"),
        ([{"role": "user", "content": [{"type": "smell", "url": "b"}]}], "type 'smell', but only text, image, audio"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "needs exactly one of"),
        ([helpers.user(("image", "no such.png"))], "there is no file no such.png"),
    ],
)
def test_malformed_conversations(gemma4, messages, message):
    with pytest.raises(InputError, match=message):
        gemma4.encode(messages)


def test_a_placeholder_typed_into_a_message_is_text(gemma4):
    """Of which there may be any number: only what a message shows has soft tokens. Raw text has its placeholders."""
    picture = ("image", np.zeros((90, 90, 3), np.uint8))
    plain = gemma4.encode([helpers.user("see <|image>", picture)])
    ids = {helpers.SPECIAL.index(name) for name in ("<|image>", "<|image|>", "<image|>")}
    for typed in ("<|image|>", "<|image>", "<|image|><|video|><image|>", "<|ima"):
        for parts in ((picture, typed), (typed, picture), (typed, picture, typed)):
            prompt = gemma4.encode([helpers.user(*parts)])
            (placed,) = prompt.media
            assert soft_tokens(prompt, PICTURE) == soft_tokens(plain, PICTURE)
            count = placed.content.soft_tokens
            assert [i for i, token in enumerate(prompt.tokens) if token in ids] == list(
                range(placed.start - 1, placed.start + count + 1)
            )
            assert typed in gemma4.text.decode(prompt.tokens)
    assert not ids & set(gemma4.encode([helpers.user("see <|image|>")]).tokens)
    with pytest.raises(InputError, match=r"the prompt says <\|image\|> 1 time, but has 0 pictures"):
        gemma4.encode("see <|image|>", chat=False)


def test_media_belongs_to_text(gemma4):
    picture = Media(pictures=(np.zeros((9, 9, 3)),))
    for prompt in ([2, 3], [helpers.user("hello")]):
        with pytest.raises(InputError, match="messages name their media themselves"):
            gemma4.encode(prompt, picture)
    with pytest.raises(InputError, match="the prompt is empty"):
        gemma4.encode("  ")
    with pytest.raises(InputError, match=r"says <\|image\|> 0 times, but has 1 picture"):
        gemma4.encode("no placeholder", picture, chat=False)


def test_checkpoints_that_do_not_take_it(tmp_path, gemma4, sources):
    shutil.copy(helpers.GOLDENS / "gemma4" / "processor_config.json", tmp_path)
    vision = {"model_type": "gemma4", "vision_config": {"a": 1}, "audio_config": None}
    (tmp_path / "config.json").write_text(json.dumps(vision))
    deaf = MediaProcessor.from_pretrained(tmp_path, gemma4.text)
    deaf.encode("?", Media(pictures=(sources["wide"],)))
    with pytest.raises(InputError, match="the checkpoint takes no sounds"):
        deaf.encode("?", Media(sounds=(sources["mono"],)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4_text"}))
    with pytest.raises(InputError, match="the checkpoint takes no pictures"):
        MediaProcessor.from_pretrained(tmp_path, gemma4.text).encode("?", Media(pictures=(sources["wide"],)))
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(InputError, match="neither processor_config.json nor preprocessor_config.json"):
        MediaProcessor.from_pretrained(tmp_path, gemma4.text)
    for damaged in ('{"image_processor": []', '{"image_processor": 7}'):
        (tmp_path / "processor_config.json").write_text(damaged)
        with pytest.raises(InputError, match="processor_config.json"):
            MediaProcessor.from_pretrained(tmp_path, gemma4.text)


def test_a_tokenizer_that_takes_placeholders_apart(tmp_path, sources):
    """It has the word, but does not keep it whole in a text."""
    shutil.copytree(helpers.GOLDENS / "gemma4", tmp_path, dirs_exist_ok=True)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [each for each in tokenizer["added_tokens"] if each["content"] != "<|video|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"extra_special_tokens": []}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    apart = MediaProcessor.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tokenizer does not take <\|video\|> for one token"):
        apart.encode("?", Media(videos=(sources["short_video"],)))


def test_works_without_torch():
    """Nor do text prompts wait for the import of classes that only media need."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from mlx_gemma4_assist.media.processor import MediaProcessor\n"
        "from mlx_gemma4_assist.text.messages import Media\n"
        f"processor = MediaProcessor.from_pretrained({str(helpers.GOLDENS / 'gemma4')!r})\n"
        "processor.encode('hello')\n"
        "assert not any(name.startswith('transformers.models.gemma4') for name in sys.modules)\n"
        f"print(processor.encode('hello', Media(pictures=({str(helpers.PHOTO)!r},))).media[0].content.soft_tokens)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "270\n", "")
