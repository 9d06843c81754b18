"""Sound from wherever it is to samples, and what is no sound says so."""

import base64

import numpy as np
import pytest
from support import media as helpers

from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.media import sound
from mlx_gemma4_assist.media.sound import read_sound


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


def test_what_is_no_sound(tmp_path, monkeypatch):
    pytest.importorskip("soundfile")
    pytest.importorskip("av")
    (tmp_path / "text.wav").write_text("hello")
    silent = helpers.save_wave(tmp_path / "silent.wav", np.zeros((1, 0)), 16_000)
    mute = helpers.save_video(tmp_path / "mute.mkv", helpers.video(2))
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
    monkeypatch.setattr(sound, "MAX_SECONDS", 1)
    long = helpers.save_wave(tmp_path / "long.wav", helpers.tone(1.5, 8000), 8000)
    with pytest.raises(InputError, match="is longer than an hour"):
        read_sound(long, 16_000)
