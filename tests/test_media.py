"""Pictures, sound and video to model inputs: equal to the reference's processors, and what is no picture says so."""

import base64
import io
import json
import shutil
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from support import media as helpers

from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.media import extras, pictures, sound
from mlx_gemma4_assist.media.config import MediaOptions
from mlx_gemma4_assist.media.fetch import Bounds, fetch, open_source
from mlx_gemma4_assist.media.inputs import PICTURE, SOUND, VIDEO, ModelInputs
from mlx_gemma4_assist.media.pictures import open_picture
from mlx_gemma4_assist.media.processor import MediaProcessor
from mlx_gemma4_assist.media.sound import read_sound
from mlx_gemma4_assist.media.video import Sampling, _Survey, read_video
from mlx_gemma4_assist.text.messages import Media

KINDS = ("gemma4", "gemma4_unified")
NAMES = tuple(helpers.conversations(dict.fromkeys(helpers.SOURCES)))


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


def save_video(path: Path, frames: np.ndarray, codec: str = "ffv1", rate: int = helpers.VIDEO_RATE, **options) -> Path:
    """ffv1 keeps RGB exactly."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.options = {name: str(value) for name, value in options.items()}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


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
    inputs = processor.encode(messages, options=MediaOptions(**options))
    out = inputs.named()
    shapes, arrays = golden
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
    counts = [len([t for t in inputs.token_types if t == type]) for type in (PICTURE, VIDEO, SOUND)]
    frames = sum(n * each for n, each in zip(inputs.video_frames, inputs.frame_tokens, strict=True))
    assert counts == [sum(inputs.picture_tokens), frames, sum(inputs.sound_tokens)]


def test_pictures_of_the_same_library_are_exactly_equal(sources, gemma4):
    """For the unified model the reference has torchvision's processor only."""
    messages, _ = helpers.conversations(sources)["two pictures"]
    out = gemma4.encode(messages)
    expected = np.load(helpers.GOLDENS / "gemma4" / "golden.npz")["two pictures/pixel_values"]
    np.testing.assert_array_equal(helpers.sample(out.pixel_values, out.image_position_ids), expected)


def test_soft_tokens_of_the_photograph(gemma4):
    """600 x 512 pixels fit 18 x 15 soft tokens of 48 x 48 pixels into 280."""
    inputs = gemma4.encode("Who?", Media(pictures=(helpers.PHOTO,)))
    assert inputs.picture_tokens == (18 * 15,)
    (span,) = inputs.spans()
    assert span[0] == PICTURE
    assert span[2] - span[1] == 270
    assert {inputs.tokens[i] for i in range(*span[1:])} == {helpers.SPECIAL.index("<|image|>")}
    assert inputs.tokens[span[1] - 1] == helpers.SPECIAL.index("<|image>")
    assert inputs.tokens[span[2]] == helpers.SPECIAL.index("<image|>")


@pytest.mark.parametrize("budget", [70, 140, 280, 560, 1120])
def test_budgets(gemma4, budget):
    options = MediaOptions(max_soft_tokens=budget)
    (count,) = gemma4.encode("?", Media(pictures=(helpers.PHOTO,)), options=options).picture_tokens
    assert 0.8 * budget < count <= budget


def test_text_in_front_of_a_base_model(gemma4, sources):
    picture = sources["wide"]
    raw = gemma4.encode("See <|image|>: ", Media(pictures=(picture,)), chat=False)
    bos, image = helpers.SPECIAL.index("<bos>"), helpers.SPECIAL.index("<|image|>")
    assert raw.tokens[0] == bos
    assert raw.tokens.count(bos) == 1
    assert raw.tokens.count(image) == raw.picture_tokens[0]
    assert len(raw.token_types) == len(raw.tokens)
    assert [raw.token_types[i] for i, t in enumerate(raw.tokens) if t == image] == [PICTURE] * raw.picture_tokens[0]


def test_text_and_ids_are_left_to_the_text_processor(gemma4):
    for prompt, options in (("hello", {}), ("hello", {"chat": False}), ([2, 5, 6], {})):
        inputs = gemma4.encode(prompt, **options)
        assert inputs == ModelInputs.of_text(gemma4.text.encode(prompt, **options))
        assert not inputs.has_media
        assert inputs.spans() == []


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
        inputs = gemma4.encode([{"role": "user", "content": [part, {"type": "text", "text": "?"}]}])
        assert inputs.tokens == expected.tokens
        np.testing.assert_array_equal(inputs.pixel_values, expected.pixel_values)


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
    expected, out = processor.encode(messages).named(), older.encode(messages).named()
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
    assert max(out.picture_tokens) <= 140 < min(usual.picture_tokens)
    assert out.video_frames == (3,)
    heard = usual.input_features_mask[..., None]
    np.testing.assert_allclose(out.input_features, usual.input_features - heard, atol=1e-5)


# Pictures


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_sources_of_pictures(tmp_path):
    array = helpers.picture(20, 31)
    image = Image.fromarray(array)
    png = encoded(image, "PNG")
    path = tmp_path / "a b#?.png"
    path.write_bytes(png)
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    for source in (path, str(path), png, url, image, array, np.moveaxis(array, -1, 0), array / 255, mx.array(array)):
        np.testing.assert_array_equal(open_picture(source), array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(orientation):
    """As a camera would write it: the stored picture is the inverse of what the flag asks for."""
    array = helpers.picture(20, 31)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # numbers of Image.Transpose
    stored = Image.fromarray(array) if undo is None else Image.fromarray(array).transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "PNG", exif=exif)
    np.testing.assert_array_equal(open_picture(content), array)
    np.testing.assert_array_equal(open_picture(Image.open(io.BytesIO(content))), array)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
def test_all_modes(mode):
    out = open_picture(Image.new(mode, (5, 4), 1 if mode in ("1", "L", "P", "I", "F", "I;16") else None))
    assert out.shape == (4, 5, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000"])
def test_all_formats(format):
    array = np.full((48, 48, 3), (200, 100, 50), np.uint8)
    out = open_picture(encoded(Image.fromarray(array), format))
    assert out.shape == array.shape
    assert np.abs(out.astype(int) - array).max() <= 4


def test_sixteen_bits_are_scaled():
    """Pillow's own conversion makes everything above 255 white."""
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(open_picture(encoded(Image.fromarray(grey), "PNG"))[..., 0], grey >> 8)


def test_first_picture_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(content)[0, 0].tolist() == [255, 0, 0]


def huge_png(width: int, height: int) -> bytes:
    """A header that promises more than a few bytes hold."""
    content = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_what_is_no_picture(tmp_path, monkeypatch):
    png = encoded(Image.fromarray(helpers.picture(64, 64)), "PNG")
    jpeg = encoded(Image.fromarray(helpers.picture(64, 64)), "JPEG")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "half.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    array = np.zeros((4, 4, 3))
    cases = [
        (tmp_path / "none.png", "there is no file .*none.png"),
        (str(tmp_path), "is no file"),
        ("a\0b", "there is no file"),
        ("x" * 5000, "there is no file x+\\.\\.\\."),
        (tmp_path / "text.png", "text.png is no picture in a format"),
        (tmp_path / "empty.png", "empty.png is no picture in a format"),
        (tmp_path / "half.png", "half.png is damaged"),
        (tmp_path / "half.jpg", "half.jpg is damaged"),
        (huge_png(20_000, 20_000), "is too large"),
        (huge_png(11_000, 11_000), "is too large: 11,000 x 11,000 pixels, more than 100 million"),
        (b"", "the 0 bytes given is no picture"),
        ("data:image/png;base64,!!", "is no base64"),
        ("data:image/png", "has no comma"),
        ("data:image/png;base64,aGVsbG8=", "data:image/png;base64,... is no picture in a format"),
        (np.zeros((2, 2, 2, 3)), r"an array of shape \(2, 2, 2, 3\) is no picture"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        (array + 2, "only if they are all from 0 to 1"),
        (array * np.nan, "only if they are all from 0 to 1"),
        (array.astype(np.int64), "an array of int64 is no picture"),
        ({"a": 1}, "is no picture"),
        (None, "is no picture"),
        ([[1, 2], [3]], "the list given is no picture"),
    ]
    for source, message in cases:
        with pytest.raises(InputError, match=message) as raised:
            open_picture(source)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 300
    monkeypatch.setattr(pictures, "MAX_PIXELS", 63)
    with pytest.raises(InputError, match="is too large: 8 x 8 pixels"):
        open_picture(np.zeros((8, 8, 3), np.uint8))


def test_random_damage_is_one_clear_error():
    """Whatever a decoder makes of it: a picture or an InputError."""
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = np.frombuffer(encoded(Image.fromarray(helpers.picture(24, 24)), format), np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[rng.integers(0, len(broken), 8)] = rng.integers(0, 256, 8)
            try:
                out = open_picture(broken.tobytes())
            except InputError:
                continue
            assert out.shape[2] == 3


def test_a_line_is_no_picture_for_the_model(gemma4):
    wide = gemma4.encode("?", Media(pictures=(np.zeros((2, 3000, 3), np.uint8),)))
    assert wide.picture_tokens == (280,)
    with pytest.raises(InputError, match="max_soft_tokens is 100, expected one of 70, 140, 280, 560, 1120"):
        MediaOptions(max_soft_tokens=100)


# Sound


def test_sources_of_sound(tmp_path):
    pytest.importorskip("soundfile")
    samples = np.round(helpers.tone(0.2, 16_000, 2) * 32767) / 32768
    path = helpers.save_wave(tmp_path / "two.wav", samples * 32768 / 32767, 16_000)
    both = samples.mean(axis=0).astype(np.float32)
    url = "data:audio/wav;base64," + base64.b64encode(path.read_bytes()).decode()
    for source in (path, str(path), path.read_bytes(), url, samples, np.int16(samples * 32768)):
        np.testing.assert_allclose(read_sound(source, 16_000), both, atol=1e-4)
    slow = read_sound({"array": samples[0], "sampling_rate": 8_000}, 16_000)
    assert slow.shape == (2 * samples.shape[1],)
    assert read_sound(samples[0], 16_000).dtype == np.float32


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_tone(tmp_path, rate):
    pytest.importorskip("soxr")
    t = np.arange(rate) / rate
    path = helpers.save_wave(tmp_path / "tone.wav", np.sin(2 * np.pi * 1000 * t)[None] * 0.5, rate)
    out = read_sound(path, 16_000)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert out.shape == (16_000,)
    assert np.abs(out - expected)[400:-400].max() < 1e-3


def test_sound_that_only_av_reads(tmp_path):
    """AAC in an MP4 container, as phones record it."""
    av = pytest.importorskip("av")
    path = tmp_path / "voice.m4a"
    t = np.arange(22_050) / 22_050
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=22_050, layout="stereo")
        both = np.stack([np.sin(2 * np.pi * 440 * t)] * 2).astype(np.float32) * 0.5
        for start in range(0, both.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(both[:, start : start + 1024].copy(), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 22_050, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for source in (path, path.read_bytes()):
        out = read_sound(source, 16_000)
        assert abs(len(out) / 16_000 - 1) < 0.15
        spectrum = np.abs(np.fft.rfft(out[2000:12_000]))
        assert abs(spectrum.argmax() * 16_000 / 10_000 - 440) < 3


def test_what_is_no_sound(tmp_path, monkeypatch, gemma4):
    pytest.importorskip("soundfile")
    pytest.importorskip("av")
    (tmp_path / "text.wav").write_text("hello")
    silent = helpers.save_wave(tmp_path / "silent.wav", np.zeros((1, 0)), 16_000)
    mute = save_video(tmp_path / "mute.mkv", helpers.video(2))
    cases = [
        (tmp_path / "none.wav", "there is no file"),
        (tmp_path / "text.wav", "text.wav is no sound that can be read"),
        (b"RIFF", "the 4 bytes given is no sound that can be read"),
        (silent, "silent.wav holds no sound"),
        (mute, "mute.mkv has no sound in it"),
        (np.zeros((20, 100)), r"an array of shape \(20, 100\) is no sound"),
        (np.zeros(0), "holds no sound"),
        (np.full(9, np.nan), "samples that are not numbers"),
        (np.zeros(9, np.uint8), "an array of uint8 is no sound"),
        ({"array": np.zeros(9)}, "needs an array and a sampling_rate"),
        ({"array": np.zeros(9), "sampling_rate": 0}, "sampling_rate of a sound is 0"),
        (None, "an array of shape .* is no sound"),
    ]
    for source, message in cases:
        with pytest.raises(InputError, match=message):
            read_sound(source, 16_000)
    with pytest.raises(InputError, match="is too short to be heard"):
        gemma4.encode("?", Media(sounds=(np.zeros(50, np.float32),)))
    monkeypatch.setattr(sound, "MAX_SECONDS", 1)
    long = helpers.save_wave(tmp_path / "long.wav", helpers.tone(1.5, 8000), 8000)
    with pytest.raises(InputError, match="is longer than an hour"):
        read_sound(long, 16_000)


def test_what_the_model_does_not_hear_is_said(gemma4):
    inputs = gemma4.encode("?", Media(sounds=(np.zeros(16_000 * 32, np.float32), np.zeros(16_000, np.float32))))
    assert inputs.notes == ("the ndarray given lasts 32 seconds, of which the model hears the first 30",)
    assert inputs.sound_tokens == (750, 25)


# Video


def decoded(source, **options) -> tuple[list[float], np.ndarray]:
    seconds, frames = zip(*read_video(source, Sampling(**options)), strict=True)
    return list(seconds), np.stack(frames)


def test_frames_are_spread_evenly():
    assert Sampling(4).indices(8, 10.0) == [0, 2, 4, 6]
    assert Sampling(32).indices(40, 10.0)[:6] == [0, 1, 2, 3, 5, 6]
    assert Sampling(32).indices(5, 10.0) == [0, 1, 2, 3, 4]
    assert Sampling(32, fps=2).indices(40, 10.0) == [0, 5, 10, 15, 20, 25, 30, 35]
    assert Sampling(None).indices(3, 10.0) == [0, 1, 2]
    assert Sampling(32, fps=0.01).indices(40, 10.0) == [0]


def test_sources_of_video(tmp_path):
    frames = helpers.video(9)
    path = save_video(tmp_path / "lossless.mkv", frames)
    url = "data:video/x-matroska;base64," + base64.b64encode(path.read_bytes()).decode()
    pictures = [Image.fromarray(frame) for frame in frames]
    for source in (path, str(path), path.read_bytes(), url, {"frames": frames, "fps": 10}):
        seconds, out = decoded(source, num_frames=3)
        assert seconds == [0.0, 0.3, 0.6]
        np.testing.assert_array_equal(out, frames[[0, 3, 6]])
    for source in (frames, pictures):
        seconds, out = decoded(source, num_frames=3)
        assert seconds == [0.0, 3 / 24, 6 / 24]
        np.testing.assert_array_equal(out, frames[[0, 3, 6]])


@pytest.mark.parametrize(
    ("codec", "name"), [("h264", "a.mp4"), ("h264", "a.mkv"), ("mpeg4", "a.avi"), ("h264", "a.h264")]
)
@pytest.mark.parametrize("count", [1, 5, 60])
def test_frames_found_by_seeking_are_those_found_in_order(tmp_path, codec, name, count):
    """Keyframes far apart, frames stored out of order, and streams that tell no times."""
    av = pytest.importorskip("av")
    options = {"g": 12, "bf": 3} if codec == "h264" else {"g": 12}
    path = save_video(tmp_path / name, helpers.video(60), codec, **options)
    with av.open(str(path)) as container:
        all_frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(all_frames) == 60
    _, out = decoded(path, num_frames=count)
    np.testing.assert_array_equal(out, np.stack(all_frames)[[i * 60 // count for i in range(count)]])


def test_a_long_video_is_not_decoded_from_end_to_end():
    """1,000 frames, 10 of them keyframes: four frames cost four runs from the keyframe before."""

    class Container:
        decoded = 0

        def seek(self, pts, stream):
            self.position = pts

        def decode(self, stream):
            while self.position < 1000:
                self.position += 1
                self.decoded += 1
                yield SimpleNamespace(pts=self.position - 1)

    container = Container()
    survey = _Survey(1000, range(1000), range(0, 1000, 100))
    found = [(i, frame.pts) for i, frame in survey.frames(container, None, [0, 250, 251, 750])]
    assert found == [(0, 0), (250, 250), (251, 251), (750, 750)]
    assert container.decoded == 1 + 51 + 1 + 51


def test_video_is_upright(tmp_path):
    av = pytest.importorskip("av", minversion="18")  # the first that writes how a phone was held
    frames = helpers.video(2)
    path = tmp_path / "held.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 72, 128, "rgb24"
        stream.set_display_rotation(90)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        turn = next(container.decode(video=0)).rotation
    _, out = decoded(path)
    assert abs(turn) == 90
    np.testing.assert_array_equal(out[0], np.rot90(frames[0], turn // 90))


def test_what_is_no_video(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("hello")
    wave = helpers.save_wave(tmp_path / "sound.wav", helpers.tone(0.1, 8000), 8000)
    whole = save_video(tmp_path / "whole.mp4", helpers.video(20), "h264").read_bytes()
    cases = [
        (tmp_path / "none.mp4", "there is no file"),
        (tmp_path / "text.mp4", "text.mp4 is no video that can be read"),
        (wave, "sound.wav has no pictures in it"),
        (whole[: len(whole) // 2], "is no video that can be read|has no frames"),
        (np.zeros((4, 4, 3)), "is no video"),
        ([], "a video has no frames"),
        (7, "is no video"),
        (["a.png"], "there is no file a.png"),
        ({"frames": []}, "needs frames and fps"),
        ({"frames": helpers.video(2), "fps": 0}, "the fps of a video is 0"),
    ]
    for source, message in cases:
        with pytest.raises(InputError, match=message):
            decoded(source)


def test_options_of_video(gemma4):
    source = Media(videos=({"frames": helpers.video(40), "fps": 10},))
    usual = gemma4.encode("?", source)
    few = gemma4.encode("?", source, options=MediaOptions(num_frames=4, frame_soft_tokens=140))
    assert (usual.video_frames, few.video_frames) == ((32,), (4,))
    assert usual.frame_tokens[0] <= 70 < few.frame_tokens[0] <= 140
    assert gemma4.encode("?", source, options=MediaOptions(fps=1)).video_frames == (4,)
    text = gemma4.text.decode(few.tokens)
    assert [stamp in text for stamp in ("00:00", "00:01", "00:02", "00:03")] == [True] * 4
    for wrong in ({"num_frames": 0}, {"fps": 0}, {"fps": 1, "num_frames": 1}, {"frame_soft_tokens": 1}):
        with pytest.raises(InputError):
            MediaOptions(**wrong)


# Conversations


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the prompt is empty"),
        ([helpers.user(("image", None))], "message 1 has a part of type 'image' that needs exactly one of image, url"),
        ([{"role": "user", "content": [{"type": "image"}]}], "needs exactly one of"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a", "url": "b"}]}], "needs exactly one of"),
        ([{"role": "user", "content": [{"type": "smell", "url": "b"}]}], "type 'smell', but only text, image, audio"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "needs exactly one of"),
        ([helpers.user("see <|image|>")], r"the prompt says <\|image\|> 1 time, but has 0 images"),
        (
            [helpers.user("see <|image|>", ("image", np.zeros((9, 9, 3))))],
            r"the prompt says <\|image\|> 2 times, but has 1 image",
        ),
        ([helpers.user(("image", "no such.png"))], "there is no file no such.png"),
    ],
)
def test_malformed_conversations(gemma4, messages, message):
    with pytest.raises(InputError, match=message):
        gemma4.encode(messages)


def test_media_belongs_to_text(gemma4):
    picture = Media(pictures=(np.zeros((9, 9, 3)),))
    for prompt in ([2, 3], [helpers.user("hello")]):
        with pytest.raises(InputError, match="messages name their media themselves"):
            gemma4.encode(prompt, picture)
    with pytest.raises(InputError, match="the prompt is empty"):
        gemma4.encode("  ")
    with pytest.raises(InputError, match=r"says <\|image\|> 0 times, but has 1 image"):
        gemma4.encode("no placeholder", picture, chat=False)


def test_checkpoints_that_do_not_take_it(tmp_path, gemma4, sources):
    shutil.copy(helpers.GOLDENS / "gemma4" / "processor_config.json", tmp_path)
    vision = {"model_type": "gemma4", "vision_config": {"a": 1}, "audio_config": None}
    (tmp_path / "config.json").write_text(json.dumps(vision))
    deaf = MediaProcessor.from_pretrained(tmp_path, gemma4.text)
    deaf.encode("?", Media(pictures=(sources["wide"],)))
    with pytest.raises(InputError, match="the checkpoint takes no audio"):
        deaf.encode("?", Media(sounds=(sources["mono"],)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4_text"}))
    with pytest.raises(InputError, match="the checkpoint takes no image"):
        MediaProcessor.from_pretrained(tmp_path, gemma4.text).encode("?", Media(pictures=(sources["wide"],)))
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(InputError, match="neither processor_config.json nor preprocessor_config.json"):
        MediaProcessor.from_pretrained(tmp_path, gemma4.text)
    for damaged in ('{"image_processor": []', '{"image_processor": 7}'):
        (tmp_path / "processor_config.json").write_text(damaged)
        with pytest.raises(InputError, match="processor_config.json"):
            MediaProcessor.from_pretrained(tmp_path, gemma4.text)


def test_without_the_extra(monkeypatch, sources):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(extras, "import_module", missing)
    hint = 'needs {}: pip install "mlx-gemma4-assist\\[media\\]"'
    with pytest.raises(InputError, match="reading sound " + hint.format("soundfile")):
        read_sound(sources["mono"], 16_000)
    with pytest.raises(InputError, match="resampling sound " + hint.format("soxr")):
        read_sound({"array": np.zeros(9), "sampling_rate": 8000}, 16_000)
    with pytest.raises(InputError, match="reading video " + hint.format("av")):
        next(read_video(sources["mono"], Sampling()))
    assert read_sound(np.zeros(9), 16_000).shape == (9,)


def test_works_without_torch():
    """Nor do text prompts wait for the import of classes that only media need."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from mlx_gemma4_assist.media.processor import MediaProcessor\n"
        "from mlx_gemma4_assist.text.messages import Media\n"
        f"processor = MediaProcessor.from_pretrained({str(helpers.GOLDENS / 'gemma4')!r})\n"
        "processor.encode('hello')\n"
        "assert not any(name.startswith('transformers.models.gemma4') for name in sys.modules)\n"
        f"print(processor.encode('hello', Media(pictures=({str(helpers.PHOTO)!r},))).picture_tokens)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "(270,)\n", "")


# URLs


class Pages(BaseHTTPRequestHandler):
    """Answers by path; counts requests."""

    content = encoded(Image.fromarray(helpers.picture(20, 31)), "PNG")
    requests: list[str]

    def do_GET(self):
        self.requests.append(self.path)
        name, _, rest = self.path[1:].partition("/")
        if name == "picture":
            self.answer(200, {"Content-Length": len(self.content)}, self.content)
        elif name == "steps":
            left = int(rest)
            self.answer(302, {"Location": f"/steps/{left - 1}" if left else "/picture"})
        elif name == "loop":
            self.answer(301, {"Location": "/loop"})
        elif name == "file":
            self.answer(302, {"Location": "file:///etc/passwd"})
        elif name == "announced":
            self.answer(200, {"Content-Length": 10**12}, b"x")
        elif name == "endless":
            self.answer(200, {})
            while self.send(b"x" * 65536):
                pass
        elif name == "slow":
            self.answer(200, {"Content-Length": 1000})
            while self.send(b"x"):
                time.sleep(0.05)
        elif name == "dripping":
            while self.send(b"H"):
                time.sleep(0.05)
        elif name == "silent":
            time.sleep(1.5)
        elif name == "short":
            self.answer(200, {"Content-Length": 1000}, b"x" * 10)
        else:
            self.answer(404, {})

    def answer(self, status, headers, content=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.send(content)

    def send(self, content) -> bool:
        try:
            self.wfile.write(content)
            self.wfile.flush()
        except OSError:
            return False
        return True

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    Pages.requests = []
    with serving(Pages) as url:
        yield url


def test_pictures_from_a_url(site, gemma4):
    np.testing.assert_array_equal(open_picture(f"{site}/picture"), helpers.picture(20, 31))
    np.testing.assert_array_equal(open_picture(f"{site}/steps/4"), helpers.picture(20, 31))
    message = {"role": "user", "content": [{"type": "image", "url": f"{site}/picture"}, {"type": "text", "text": "?"}]}
    assert gemma4.encode([message]).picture_tokens[0] > 0
    assert open_source(f"{site.replace('http', 'HTTP')}/picture").getvalue() == Pages.content


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "cannot download http://.*/missing: HTTP 404"),
        ("loop", "/loop redirects more than 3 times, or to what is not http"),
        ("steps/9", "/steps/9 redirects more than 3 times"),
        ("file", "/file redirects more than 3 times, or to what is not http"),
        ("announced", "/announced is larger than 100,000 bytes"),
        ("endless", "/endless is larger than 100,000 bytes"),
        ("slow", "/slow did not arrive within 0.5 seconds"),
        ("dripping", "/dripping did not arrive within 0.5 seconds"),
        ("silent", "/silent did not arrive within 0.5 seconds"),
        ("short", "/short broke off after 10 of 1,000 bytes"),
    ],
)
def test_urls_that_do_not_work(site, path, message):
    start = time.perf_counter()
    with pytest.raises(InputError, match=message):
        fetch(f"{site}/{path}", Bounds(size=100_000, seconds=0.5, redirects=3))
    assert time.perf_counter() - start < 2
    assert len(Pages.requests) <= 4


def test_addresses_that_are_none(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    for url in ("http://127.0.0.1:1/x", "http://", "http://host:port/", "https://a b/", "http://[::1/"):
        with pytest.raises(InputError, match="cannot download"):
            fetch(url, Bounds(seconds=2))
    with pytest.raises(InputError, match="is larger than 3 bytes"):
        fetch("data:,hello", Bounds(size=3))
    assert fetch("data:,a%20b") == b"a b"
    assert fetch("data:text/plain;base64,aGVs bG8=") == b"hello"
    with pytest.raises(InputError, match="there is no file ftp://host/a.png"):
        open_source("ftp://host/a.png")
