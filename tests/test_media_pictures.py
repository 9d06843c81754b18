"""Pictures from wherever they are to arrays, and what is no picture says so."""

import base64
import gc
import io
import sys
import warnings
import zlib
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from support import media as helpers
from support.media import encoded

from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.media import pictures
from mlx_gemma4_assist.media.pictures import open_picture


def test_sources_of_pictures(tmp_path):
    array = helpers.picture(20, 31)
    image = Image.fromarray(array)
    png = encoded(image, "PNG")
    path = tmp_path / "a b#?.png"
    path.write_bytes(png)
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    for source in (path, str(path), png, url, image, array, np.moveaxis(array, -1, 0), array / 255, mx.array(array)):
        np.testing.assert_array_equal(open_picture(source), array)


def png(image, **options):
    return encoded(image, "PNG", **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("written", [png, helpers.avif, helpers.heic])
def test_pictures_are_upright(written, orientation):
    """As a camera would write it: the stored picture is the inverse of what the flag asks for.

    HEIC and AVIF have it twice, as a phone's: in EXIF, and as a property of the picture, which decoders heed.
    """
    array = helpers.picture(64, 80)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # numbers of Image.Transpose
    stored = Image.fromarray(array) if undo is None else Image.fromarray(array).transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = written(stored, exif=exif.tobytes())
    sources = [content]
    if written is helpers.heic:
        import pillow_heif

        assert (b"irot" in content or b"imir" in content) == (orientation > 1)
        sources += [pillow_heif.HeifImageFile(io.BytesIO(content)), pillow_heif.open_heif(content).to_pillow()]
    else:
        sources += [Image.open(io.BytesIO(content))]
    for source in sources:
        assert np.abs(open_picture(source).astype(int) - array).max() <= (4 if written is helpers.avif else 0)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
def test_all_modes(mode):
    out = open_picture(Image.new(mode, (5, 4), 1 if mode in ("1", "L", "P", "I", "F", "I;16") else None))
    assert out.shape == (4, 5, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGBa"])
def test_what_is_transparent_is_laid_on_white(mode, tmp_path):
    """From wherever it comes, though its colours are black; what is opaque stays black."""
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 2))
    if mode == "P":
        image = Image.fromarray(np.array(image)[..., 3] // 255)
        image.putpalette([0, 0, 0] * 2)
        image.info["transparency"] = 0
    image = image.convert(mode)
    path = tmp_path / "a.png"
    sources = [image]
    if mode in ("RGBA", "LA", "P"):  # what PNG has
        image.save(path)
        sources += [path, str(path), path.read_bytes(), Image.open(path)]
    for source in sources:
        out = open_picture(source)
        assert out[0].tolist() == [[0] * 3] * 2 + [[255] * 3] * 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_laid_on_white_a_row_at_a_time(mode, monkeypatch):
    image = Image.fromarray(helpers.picture(20, 31, 4)).convert(mode)
    whole = open_picture(image)
    monkeypatch.setattr(pictures, "_AT_ONCE", 70)
    np.testing.assert_array_equal(open_picture(image), whole)


def test_heic_from_wherever_it_comes(tmp_path):
    """Without a word to Pillow, which goes on knowing no HEIC."""
    array = helpers.picture(64, 80)
    content = helpers.heic(Image.fromarray(array))
    known = dict(Image.OPEN)
    path = tmp_path / "IMG 0001.HEIC"
    path.write_bytes(content)
    url = "data:image/heic;base64," + base64.b64encode(content).decode()
    for source in (path, str(path), path.as_uri(), content, url):
        np.testing.assert_array_equal(open_picture(source), array)
    assert known == Image.OPEN


@pytest.mark.parametrize("written", [helpers.avif, helpers.heic])
def test_what_is_transparent_in_a_phones_formats(written):
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 32, 64))
    assert open_picture(written(image))[0, [0, 63]].tolist() == [[0] * 3, [255] * 3]


def test_the_main_picture_of_a_heic_file():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = pillow_heif.HeifFile()
    for colour in ("red", "blue"):
        file.add_from_pillow(Image.new("RGB", (64, 64), colour))
    content = io.BytesIO()
    file.save(content, quality=-1, chroma=444, matrix_coefficients=0, primary_index=1)
    assert open_picture(content.getvalue())[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_heic_without_its_library(monkeypatch, tmp_path, brand):
    """It is told by how it begins; the library is not asked for anything else."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    content = b"\0\0\0\x18ftyp" + brand + bytes(40)
    (tmp_path / "a.heic").write_bytes(content)
    for source in (content, tmp_path / "a.heic"):
        with pytest.raises(InputError) as raised:
            open_picture(source)
        assert str(raised.value) == (
            'reading HEIC pictures needs pillow_heif: pip install ".[media]" in the folder of this package'
        )
    for other in (b"\0\0\0\x18ftypisom" + bytes(40), b"ftypheic" + bytes(40), b"\0\0\0\x18ftyp"):
        with pytest.raises(InputError, match="is no picture in a format"):
            open_picture(other)


def animated(image):
    return encoded(image, "GIF", save_all=True, append_images=[Image.new("RGB", image.size, "blue")])


@pytest.mark.parametrize("written", [animated, helpers.heic])
def test_files_are_closed(tmp_path, written):
    """Whole ones, those of which too little is there, and those that are refused."""
    content = written(Image.fromarray(helpers.picture(64, 64)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        (tmp_path / "whole").write_bytes(content)
        open_picture(tmp_path / "whole")
        (tmp_path / "half").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"half is damaged: \S"):
            open_picture(tmp_path / "half")
        (tmp_path / "text").write_text("hello")
        with pytest.raises(InputError, match="is no picture"):
            open_picture(tmp_path / "text")
        (tmp_path / "large.png").write_bytes(huge_png(11_000, 11_000))
        with pytest.raises(InputError, match=r"large.png is too large: \S"):
            open_picture(tmp_path / "large.png")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_what_the_caller_has_opened_stays_open(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(animated(Image.new("RGB", (8, 8), "red")))
    with Image.open(path) as opened:
        open_picture(opened)
        opened.seek(1)


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
    content = animated(Image.new("RGB", (8, 8), "red"))
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
        (Image.new("RGB", (0, 4)), "the Image given has no pixels"),
        (Image.new("1", (1, 1_000_001)), "is too long: 1 x 1,000,001 pixels, more than a million on a side"),
        (huge_png(1_000_001, 1), "is too long: 1,000,001 x 1 pixels"),
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
    with pytest.raises(InputError, match="the Image given is too large: 8 x 8 pixels"):
        open_picture(Image.new("L", (8, 8)))


@pytest.mark.parametrize(
    "written",
    [*(partial(encoded, format=name) for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")), helpers.heic],
)
def test_random_damage_is_one_clear_error(written):
    """Whatever a decoder makes of it: a picture or an InputError."""
    rng = np.random.default_rng(0)
    whole = np.frombuffer(written(Image.fromarray(helpers.picture(24, 24))), np.uint8)
    for _ in range(40):
        broken = whole.copy()
        broken[rng.integers(0, len(broken), 8)] = rng.integers(0, 256, 8)
        try:
            out = open_picture(broken.tobytes())
        except InputError:
            continue
        assert out.shape[2] == 3
