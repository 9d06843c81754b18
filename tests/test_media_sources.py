"""Files, URLs and libraries: what is there is read, within bounds; the rest is one clear error."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import media as helpers
from support.media import encoded

from mlx_gemma4_assist import extras
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.media.fetch import Bounds, check_sources, fetch, open_source
from mlx_gemma4_assist.media.pictures import open_picture
from mlx_gemma4_assist.media.sound import read_sound
from mlx_gemma4_assist.media.video import Sampling, read_video
from mlx_gemma4_assist.text.messages import Media


def test_without_the_extra(monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(extras, "import_module", missing)
    mono = helpers.save_wave(tmp_path / "mono.wav", helpers.tone(0.1, 8_000), 8_000)
    hint = 'needs {}: pip install "\\.\\[media\\]" in the folder of this package'
    with pytest.raises(InputError, match="reading sound " + hint.format("soundfile")):
        read_sound(mono, 16_000)
    with pytest.raises(InputError, match="resampling sound " + hint.format("soxr")):
        read_sound({"array": np.zeros(9), "sampling_rate": 8000}, 16_000)
    with pytest.raises(InputError, match="reading video " + hint.format("av")):
        next(read_video(mono, Sampling()))
    assert read_sound(np.zeros(9), 16_000).shape == (9,)


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


def test_pictures_from_a_url(site):
    np.testing.assert_array_equal(open_picture(f"{site}/picture"), helpers.picture(20, 31))
    np.testing.assert_array_equal(open_picture(f"{site}/steps/4"), helpers.picture(20, 31))
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
    """Those that are not too slow have all the time that a busy machine needs."""
    start, seconds = time.perf_counter(), 0.5 if "did not arrive" in message else 30
    with pytest.raises(InputError, match=message):
        fetch(f"{site}/{path}", Bounds(size=100_000, seconds=seconds, redirects=3))
    assert time.perf_counter() - start < seconds + 1.5
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


@pytest.mark.parametrize("prefix", ["file://", "file://localhost", "FILE://", "file:"])
def test_addresses_of_files(tmp_path, prefix):
    path = tmp_path / "a b#?%.png"
    path.write_bytes(Pages.content)
    url = prefix + path.as_uri().removeprefix("file://")
    assert open_source(url) == path
    check_sources(Media(pictures=(url,)))
    for wrong in (f"{url}.gone", "file://elsewhere/a.png", "file://[/a.png", "file://"):
        with pytest.raises(InputError, match="there is no file file:|is no file"):
            open_source(wrong)


def test_home_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a.png").write_bytes(Pages.content)
    monkeypatch.chdir(tmp_path)
    assert open_source("~/a.png") == tmp_path / "home" / "a.png"
    assert open_source(Path("~/a.png")) == tmp_path / "home" / "a.png"
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "a.png").touch()
    assert open_source("~/a.png").samefile(tmp_path / "~" / "a.png")
    for name in ("~/gone.png", "~nobody-by-this-name/a.png"):
        with pytest.raises(InputError, match=f"there is no file {name}"):
            check_sources(Media(pictures=(name,)))


def test_files_are_looked_for_before_anything_is_loaded(tmp_path):
    """URLs, bytes and arrays are left alone: what they hold is seen when they are opened."""
    there = tmp_path / "a.png"
    there.write_bytes(Pages.content)
    array = helpers.picture(4, 4)
    urls = ("https://host.invalid/a.png", "HTTP://host.invalid/a.png", "data:,hello")
    check_sources(Media(pictures=(there, str(there), *urls, b"", array), sounds=({"array": array},), videos=([array],)))
    cases = [
        (Media(pictures=(there, tmp_path / "b.png")), "there is no file .*b.png"),
        (Media(sounds=("nowhere.wav",)), "there is no file nowhere.wav"),
        (Media(videos=(str(tmp_path),)), "is no file"),
        (Media(videos=("ftp://host/a.mp4",)), "there is no file ftp://host/a.mp4"),
    ]
    for media, message in cases:
        with pytest.raises(InputError, match=message):
            check_sources(media)
