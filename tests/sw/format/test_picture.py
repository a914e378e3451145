"""Pictures: one error for whatever is wrong with a file, of one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from sw.format.picture import PictureError, UnknownPictureError, middle_square, read_picture

image_module = pytest.importorskip("PIL.Image")


def _saved(kind: str, size: tuple[int, int] = (20, 12)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    image_module.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _png(width: int, height: int) -> bytes:
    """A header of any size, and hardly anything behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_the_middle_square_is_as_large_as_there_is_room() -> None:
    pixels = np.arange(5 * 8, dtype=np.uint8).reshape(5, 8)
    for whole, wanted in ((pixels, pixels[:, 1:6]), (pixels.T, pixels.T[1:6]), (pixels[:, :5], pixels[:, :5])):
        square = middle_square(image_module.fromarray(np.ascontiguousarray(whole)))
        assert np.array_equal(np.asarray(square), wanted)


def test_a_picture_is_decoded_and_converted(tmp_path: Path) -> None:
    (path := tmp_path / "x.png").write_bytes(_saved("PNG"))
    whole = np.asarray(image_module.open(path))
    assert np.array_equal(np.asarray(read_picture(path)), whole)
    assert np.array_equal(np.asarray(read_picture(io.BytesIO(path.read_bytes()), "RGB")), whole)
    grey = read_picture(str(path), "L")
    assert (grey.mode, grey.size) == ("L", (20, 12))
    assert read_picture(path, most=240).size == (20, 12)
    with pytest.raises(PictureError, match="a picture must have at most 239 pixels, not 20 x 12: scale it down"):
        read_picture(path, most=239)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sixteen_bits_are_as_eight(mode: str, tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image_module.fromarray(values).save(tmp_path / "8.png")
    image_module.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16.png")
    eight, sixteen = (np.asarray(read_picture(tmp_path / f"{bits}.png", mode)) for bits in (8, 16))
    assert np.array_equal(eight, sixteen)
    (tmp_path / "16.pgm").write_bytes(b"P5 16 16 65535\n" + (values.astype(">u2") * 257).tobytes())
    assert np.array_equal(np.asarray(read_picture(tmp_path / "16.pgm", mode)), eight)
    image_module.fromarray(values.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(PictureError, match="a picture must have 8 or 16 bits a channel, not Pillow's mode F"):
        read_picture(tmp_path / "float.tiff", mode)


def test_damaged_pictures_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    bad = [b"", b"text", _png(9, 9), _png(8000, 8000), _png(40_000, 40_000)]
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"):
        whole = _saved(kind)
        bad += [whole[: len(whole) // 2], whole[:20] + bytes(40) + whole[60:]]
    found = []
    for content in bad:
        path.write_bytes(content)
        try:
            read_picture(path, "RGB")
        except PictureError as error:
            found.append(str(error))
    beginnings = ("must be a picture", "cannot be read as a picture: ", "a picture must have at most")
    assert [text for text in found if "\n" in text or not text.startswith(beginnings)] == []
    assert {text[:20] for text in found} == {text[:20] for text in beginnings}
    assert len(found) >= len(bad) - 4  # zeros in the pixels of a BMP are a picture
    assert capfd.readouterr().err == ""
    for content, kind in ((b"text", UnknownPictureError), (_png(9, 9), PictureError)):
        path.write_bytes(content)
        with pytest.raises(PictureError) as caught:
            read_picture(path)
        assert caught.type is kind
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "absent")
