"""Odd pictures, sounds and videos, and settings for them that are damaged, end in one sentence."""

import io
import json
import math
import re

import fuzz_media
import fuzzing
import mlx.core as mx
import numpy as np
import pytest
from support import media as helpers
from support.multimodal import configs

from mlx_gemma4_assist import InputError, MediaOptions
from mlx_gemma4_assist.media.config import read_media_config
from mlx_gemma4_assist.media.sound import read_sound
from mlx_gemma4_assist.media.video import Sampling, read_video
from mlx_gemma4_assist.models.towers import towers_of
from mlx_gemma4_assist.text.messages import split_media

IMAGE, VIDEO, SOUND = "image_processor", "video_processor", "feature_extractor"


@pytest.mark.parametrize("kind", ["gemma4", "gemma4_unified"])
@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (IMAGE, {"patch_size": "x"}, "patch_size of the settings for pictures is 'x', expected an integer"),
        (IMAGE, {"patch_size": 0}, "patch_size of the settings for pictures is 0, expected 1 to 128"),
        (IMAGE, {"patch_size": 10**30}, "patch_size of the settings for pictures is 10*, expected an integer"),
        (IMAGE, {"pooling_kernel_size": 96}, "pooling_kernel_size of .* is 96, expected 1 to 8"),
        (IMAGE, {"pooling_kernel_size": False}, "pooling_kernel_size of .* is False, expected an integer"),
        (IMAGE, {"rescale_factor": {}}, "rescale_factor of .* is {}, expected a number"),
        (IMAGE, {"rescale_factor": float("nan")}, "rescale_factor of .* is nan, expected a number"),
        (IMAGE, {"resample": 7}, "resample of .* is 7, expected 0 to 5"),
        (IMAGE, {"do_resize": False}, "do_resize of .* is False, expected true"),
        (IMAGE, {"image_mean": [0.0]}, r"image_mean of .* is \(0.0,\), expected three numbers"),
        (IMAGE, {"image_std": [1, 0, 1]}, "image_std of .* expected three numbers that are not 0"),
        (IMAGE, {"max_soft_tokens": 7}, "max_soft_tokens of .* is 7, expected one of"),
        (VIDEO, {"max_soft_tokens": [280]}, "max_soft_tokens of the settings for video .* expected an integer"),
        (VIDEO, {"num_frames": "x"}, "num_frames of the settings for video is 'x', expected a positive integer"),
        (VIDEO, {"num_frames": 0}, "num_frames of the settings for video is 0, expected a positive integer"),
        (SOUND, {"sampling_rate": 10**9}, "sampling_rate of the settings for sound is .*, expected 1000 to 192000"),
        (SOUND, {"feature_size": []}, r"feature_size of the settings for sound is \(\), expected an integer"),
        (SOUND, {"feature_size": 2**30}, "feature_size of .* is 1073741824, expected 1 to 4096"),
        (SOUND, {"padding_side": "left"}, "padding_side of .* is 'left', expected right"),
    ],
)
def test_settings_of_other_types_and_sizes(tmp_path, kind, name, part, values, message):
    nested = json.loads((helpers.GOLDENS / kind / "processor_config.json").read_text())
    whole = nested if name == "processor_config.json" else nested[IMAGE] | nested[SOUND] | nested[VIDEO]
    (tmp_path / name).write_text(json.dumps(whole))
    read_media_config(tmp_path)
    (tmp_path / name).write_text(json.dumps(whole | {part: nested[part] | values} if whole is nested else values))
    message = re.sub("for (pictures|video)", "for (pictures|video)", message)  # what is flat holds for both
    with pytest.raises(InputError, match=message) as raised:
        read_media_config(tmp_path)
    assert str(raised.value).startswith("processor_config.json or preprocessor_config.json: ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame_length_ms": 0}, "frame_length_ms of the settings for sound is 0, expected 2 to 1000"),
        ({"hop_length_ms": 1e308}, "hop_length_ms of the settings for sound is 1e.308, expected 1 to 1000"),
        ({"min_frequency": 9000.0}, "min_frequency of .* is 9000.0, expected 0 to less than max_frequency"),
        ({"mel_floor": 0.0}, "mel_floor of .* is 0.0, expected a positive number"),
        ({"per_bin_mean": [1.0]}, "per_bin_mean of .* expected null or 128 numbers"),
        ({"per_bin_stddev": "x"}, "per_bin_stddev of .* is 'x', expected null or a list"),
    ],
)
def test_settings_of_the_ear(tmp_path, values, message):
    (tmp_path / "processor_config.json").write_text(json.dumps({SOUND: values}))
    with pytest.raises(InputError, match=message):
        read_media_config(tmp_path)


@pytest.mark.parametrize("unified", [False, True])
def test_settings_that_do_not_fit_the_towers(unified):
    towers = towers_of(configs(unified)[0])
    with pytest.raises(InputError, match="a patch of a picture has 3 numbers, and the model takes (768|6912): the ch"):
        towers.see(mx.zeros((1, 9, 3)), mx.zeros((1, 9, 2), mx.int32))
    with pytest.raises(InputError, match="has 3 (numbers, and the model takes 640|mel bins, expected 128)"):
        towers.hear(mx.zeros((1, 9, 3)), mx.ones((1, 9), mx.bool_))


@pytest.mark.parametrize("name", ["max_soft_tokens", "frame_soft_tokens", "num_frames", "fps"])
@pytest.mark.parametrize("value", [[{}], "x", True, 0, -1, math.nan, math.inf, {}])
def test_options_of_other_types(name, value):
    with pytest.raises(InputError, match=f"{name} is .*, expected"):
        MediaOptions(**{name: value})


def test_options_in_other_words():
    options = MediaOptions(max_soft_tokens=np.int64(280), num_frames=4.0)
    assert (options.max_soft_tokens, options.num_frames) == (280, 4)
    assert type(options.max_soft_tokens) is type(options.num_frames) is int


@pytest.mark.parametrize("fps", [0, -1, 1e-308, 1e-9, math.nan, math.inf, 10**400, True, "24", None, []])
def test_frame_rates_that_are_none(fps):
    with pytest.raises(InputError, match="the fps of a video is .*, expected frames per second, at least one a day"):
        next(read_video({"frames": helpers.video(2), "fps": fps}, Sampling()))


@pytest.mark.parametrize(("rate", "fps", "count"), [(1e9, 1e308, 3), (1e-4, 1e308, 3), (1e9, 1e-308, 1), (24, 1e9, 3)])
def test_frame_rates_beyond_all_bounds(rate, fps, count):
    assert len(list(read_video({"frames": helpers.video(3), "fps": rate}, Sampling(fps=fps)))) == count


@pytest.mark.parametrize("rate", [0, -1, 10**9, 10**30, 0.5, True, "x", None, math.inf])
def test_sampling_rates_that_are_none(rate):
    with pytest.raises(
        InputError, match="the sampling_rate of a sound is .*, expected samples per second, 1 to 10,000"
    ):
        read_sound({"array": np.zeros(9), "sampling_rate": rate}, 16_000)


def test_sounds_that_last_too_long(monkeypatch):
    """Also those that are no files; a file is not read to its end for that."""
    with pytest.raises(InputError, match="the dict given is longer than an hour"):
        read_sound({"array": np.zeros(3601), "sampling_rate": 1}, 16_000)
    monkeypatch.setattr("mlx_gemma4_assist.media.sound.MAX_SAMPLES", 1_000_000)
    with pytest.raises(InputError, match="the ndarray given has more than 1 million samples"):
        read_sound(np.zeros(1_000_001, np.float32), 16_000)
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1_000_001), 48_000, format="WAV")
    with pytest.raises(InputError, match="bytes given has more than 1 million samples"):
        read_sound(file.getvalue(), 16_000)


@pytest.mark.parametrize("value", ["a" * 70_000, ["a"] * 70_000, {"a": "b" * 70_000}])
def test_messages_quote_as_much_as_a_person_reads(value):
    for read in (lambda: split_media([{"role": "user", "content": [value]}]), lambda: MediaOptions(fps=value)):
        with pytest.raises(InputError, match="(message 1 has the part|fps is) .* expected (a dict|more)") as raised:
            read()
        assert len(str(raised.value)) < 1600


def test_sounds_of_no_channels():
    with pytest.raises(InputError, match="the ndarray given holds no sound"):
        read_sound(np.zeros((0, 4), np.int16), 16_000)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_sounds_of_many_channels_that_av_decodes(channels, tmp_path):
    """Of eight in planes, PyAV reads a ninth."""
    av = pytest.importorskip("av")
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[channels]
    samples = np.linspace(0.1, 0.8, channels)[:, None] * np.sin(np.arange(2048) / 20)
    with av.open(tmp_path / "a.mka", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout=layout)
        packed = np.round(samples.T * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode()])
    heard = read_sound(tmp_path / "a.mka", 16_000)
    np.testing.assert_allclose(heard, samples.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("read", [lambda path: next(read_video(path, Sampling())), lambda path: read_sound(path, 8000)])
def test_titles_that_are_no_unicode(tmp_path, read):
    """As older programs wrote them, in the letters of a country."""
    av = pytest.importorskip("av")
    samples, frames = np.zeros((1, 800), np.int16), helpers.video(2)
    with av.open(tmp_path / "a.mkv", "w") as container:
        container.metadata["title"] = "caf?-caf?"
        sound, video = (
            container.add_stream("pcm_s16le", rate=8000, layout="mono"),
            container.add_stream("ffv1", rate=10),
        )
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "bgr0"
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*sound.encode(frame), *sound.encode()])
        for each in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        container.mux(video.encode())
    content = (tmp_path / "a.mkv").read_bytes()
    assert b"caf?-caf?" in content
    (tmp_path / "a.mkv").write_bytes(content.replace(b"caf?-caf?", b"caf\xe9-caf\xe9"))
    read(tmp_path / "a.mkv")


def test_sampling_rates_of_numpy():
    np.testing.assert_array_equal(read_sound({"array": np.ones(9), "sampling_rate": np.int64(16_000)}, 16_000), 1)


def test_random_media(tmp_path):
    """A few of the fuzzer's cases."""
    pytest.importorskip("av")
    pytest.importorskip("soundfile")
    cases = fuzz_media.OddMedia(tmp_path)
    found = set()
    for number in range(20):
        fuzzing.made(cases, 0, number)
        found.add(fuzzing.outcome(cases.attempt).kind)
    assert found == {"worked", "refused"}
