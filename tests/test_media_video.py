"""Video from wherever it is to frames, and what is no video says so."""

import base64
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import media as helpers
from support.media import save_video

from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.media.video import Sampling, _Survey, read_video


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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "ico", "ppm", "tga"])
def test_a_picture_is_no_video(tmp_path, suffix):
    """Though FFmpeg reads it as one of a frame."""
    pytest.importorskip("av")
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(helpers.picture(32, 48)).save(path)
    with pytest.raises(InputError, match=f"a.{suffix} is a picture, expected a video"):
        decoded(path)


def test_what_moves_is_a_video(tmp_path):
    pytest.importorskip("av")
    first, *more = (Image.fromarray(frame) for frame in helpers.video(4))
    first.save(tmp_path / "a.gif", save_all=True, append_images=more)
    assert len(decoded(tmp_path / "a.gif")[0]) > 1


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
