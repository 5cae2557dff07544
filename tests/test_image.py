"""Reading photos of every kind, broken ones too, and the golden values of resizing and normalising."""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sam_edge import image as module
from sam_edge.contract import ModelSpec
from sam_edge.errors import ImageError
from sam_edge.image import check_photo, preprocess, read_photo, resize_longest_side, resized_size
from tests.golden_data import golden, inputs

UTILS = golden("utils")
SPEC = ModelSpec("test", image_size=256, embedding_channels=256)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@lru_cache
def photo() -> Image.Image:
    return Image.fromarray(inputs.image("wide")[::4, ::4])


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_that_were_written(format: str) -> None:
    np.testing.assert_array_equal(read_photo(encoded(photo(), format)), np.asarray(photo()))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_give_nearly_the_pixels_that_were_written(format: str) -> None:
    got = read_photo(encoded(photo(), format))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - np.asarray(photo())).mean() < 15


def test_paths_strings_bytes_and_streams_are_read_alike(tmp_path: Path) -> None:
    data = encoded(photo(), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for source in (path, str(path), data, io.BytesIO(data)):
        np.testing.assert_array_equal(read_photo(source), np.asarray(photo()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # white top left
    # How a camera stores it: the inverse of what a viewer does for each orientation.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = read_photo(encoded(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif))
    assert got.shape == (16, 32, 3)
    assert np.abs(got.astype(int) - upright).max() <= 2


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(format: str) -> None:
    grey = np.array([[0, 128, 129, 257, 32768, 65534, 65535]], np.uint16)
    got = read_photo(encoded(Image.fromarray(grey), format))
    np.testing.assert_array_equal(got[0, :, 1], [0, 0, 1, 1, 128, 255, 255])
    assert (got == got[..., :1]).all()


def handmade_png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """What Pillow cannot write: 16-bit colour, and a header that lies."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_sixteen_bit_colour_keeps_its_brightness() -> None:
    pixels = np.array([[[0, 0x4000, 0xFFFF], [0x8000, 0x0100, 0x00FF]]], np.uint16)
    row = b"\0" + pixels.astype(">u2").tobytes()
    got = read_photo(handmade_png(2, 1, bits=16, colour_type=2, rows=row)).astype(int)
    assert np.abs(got - pixels / 257).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_grey_palette_and_cmyk_become_rgb(mode: str) -> None:
    red = Image.new("RGB", (6, 4), (200, 30, 40)).convert(mode)
    got = read_photo(encoded(red, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert got.shape == (4, 6, 3)
    assert np.abs(got.astype(int) - np.asarray(red.convert("RGB"))).max() <= 12


def test_alpha_is_laid_over_white() -> None:
    rgba = Image.fromarray(np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [200, 0, 0, 128]]], np.uint8), "RGBA")
    expected = [[255, 255, 255], [200, 0, 0], [227, 127, 127]]
    np.testing.assert_array_equal(read_photo(encoded(rgba, "PNG"))[0], expected)
    grey = Image.fromarray(np.array([[[90, 0], [90, 255]]], np.uint8), "LA")
    np.testing.assert_array_equal(read_photo(encoded(grey, "PNG"))[0, :, 0], [255, 90])


def test_a_transparent_palette_colour_is_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    got = read_photo(encoded(palette, "PNG", transparency=0))
    np.testing.assert_array_equal(got[0], [[255, 255, 255], [40, 50, 60]])


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    got = read_photo(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (got == (255, 0, 0)).all()


def test_floating_point_pixels_are_refused_with_the_reason() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        read_photo(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_thirty_two_bit_integers_are_refused_with_the_reason() -> None:
    with pytest.raises(ImageError, match="32-bit"):
        read_photo(encoded(Image.new("I", (4, 4), 1 << 20), "TIFF"))


def test_a_missing_file_an_empty_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for source, message in ((tmp_path / "no.jpg", "does not exist"), (empty, "is empty"), (tmp_path, "not a regular")):
        with pytest.raises(ImageError, match=message):
            read_photo(source)


def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(photo(), "PNG"))
    path.chmod(0)
    try:
        path.open("rb").close()
    except PermissionError:
        with pytest.raises(ImageError, match="cannot be read"):
            read_photo(path)
    else:
        pytest.skip("this user may read any file")


def test_text_and_formats_that_run_programs_are_no_photos() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for data in (b"hello, this is not a photo", postscript, b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        with pytest.raises(ImageError, match="not a photo"):
            read_photo(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_refused(format: str, share: float) -> None:
    data = encoded(photo(), format)
    with pytest.raises(ImageError, match=r"damaged or truncated|not a photo"):
        read_photo(data[: int(len(data) * share)])


@lru_cache
def small_file(format: str) -> bytes:
    return encoded(photo().resize((40, 30)), format)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]), st.data())
def test_a_photo_with_broken_bytes_is_read_or_refused_and_nothing_else(format: str, data: st.DataObject) -> None:
    file = bytearray(small_file(format))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_photo(read_photo(bytes(file)))
    except ImageError as error:
        assert "\n" not in str(error)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    """50,000 x 50,000 black pixels in 40 bytes of data, and one between our bound and Pillow's."""
    for side in (50_000, 12_000):
        with pytest.raises(ImageError, match=r"pixels, expected at most|too many pixels"):
            read_photo(handmade_png(side, side, bits=8, colour_type=0, rows=bytes(1000)))


def test_a_photo_just_inside_the_pixel_bound_is_read_and_one_outside_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 200)
    assert read_photo(encoded(Image.new("RGB", (20, 10)), "PNG")).shape == (10, 20, 3)
    with pytest.raises(ImageError, match="21 x 10 = 210 pixels, expected at most 200"):
        read_photo(encoded(Image.new("RGB", (21, 10)), "PNG"))


def test_a_file_with_too_many_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photo(), "PNG")
    monkeypatch.setattr(module, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match="more than"):
        read_photo(io.BytesIO(data))
    monkeypatch.setattr(module, "MAX_BYTES", len(data))
    read_photo(io.BytesIO(data))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 3)])
def test_photos_of_one_pixel_and_one_row_are_read_and_preprocessed(size: tuple[int, int]) -> None:
    image = read_photo(encoded(Image.new("RGB", (size[1], size[0]), (10, 20, 30)), "PNG"))
    assert image.shape == (*size, 3)
    tensor, input_size = preprocess(image, SPEC)
    assert tensor.shape == (1, 3, 256, 256) and max(input_size) == 256 and min(input_size) >= 1


def test_resized_sizes_are_the_originals_except_that_no_side_vanishes() -> None:
    for side in (256, 1024):
        for size, expected in zip(UTILS["resize/sizes"].tolist(), UTILS[f"resize/shape_{side}"].tolist(), strict=True):
            assert resized_size(tuple(size), side) == tuple(max(1, length) for length in expected)


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_resizing_gives_the_golden_pixels_exactly(name: str) -> None:
    for side in (64, 256, 1024):
        resized = resize_longest_side(inputs.image(name), side)
        np.testing.assert_array_equal(resized.sum((0, 1), dtype=np.int64), UTILS[f"resize/{name}/image_{side}_sum"])
        if side == 64:
            np.testing.assert_array_equal(resized, UTILS[f"resize/{name}/image_64"])
        else:
            np.testing.assert_array_equal(resized[::9, ::7], UTILS[f"resize/{name}/image_{side}_sub"])


def test_normalising_and_padding_give_the_golden_tensor_exactly() -> None:
    mean, std = UTILS["pad/mean_std"].tolist()
    tensor, _ = preprocess(inputs.image("tall"), ModelSpec("test", 256, 256, (), tuple(mean), tuple(std)))
    assert tensor.shape[1:] == tuple(UTILS["pad/preprocessed_shape"])
    np.testing.assert_array_equal(tensor[0, :, ::9, ::9], UTILS["pad/preprocessed_sub"])


@pytest.mark.parametrize("variant", ["vit_mini", "vit_b", "vit_t"])
@pytest.mark.parametrize("name", ["wide", "tall"])
def test_preprocessing_gives_the_golden_tensor(variant: str, name: str) -> None:
    values = golden(variant)
    spec = ModelSpec(variant, 256 if variant == "vit_mini" else 1024, 256)
    tensor, input_size = preprocess(inputs.image(name), spec)
    resized = resize_longest_side(inputs.image(name), spec.image_size)
    assert input_size == tuple(values[f"{name}/input_size"])
    np.testing.assert_array_equal(resized[::11, ::13], values[f"{name}/resized_sub"])
    np.testing.assert_array_equal(resized.sum((0, 1), dtype=np.int64), values[f"{name}/resized_sum"])
    np.testing.assert_allclose(tensor[0, :, ::23, ::23], values[f"{name}/preprocessed_sub"], rtol=0, atol=1e-6)


def test_padding_is_zero_after_normalisation() -> None:
    tensor, (height, width) = preprocess(inputs.image("tall"), SPEC)
    assert (height, width) == (256, 144)
    assert (tensor[..., width:] == 0).all() and (tensor[..., :width] != 0).any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0, 0, 0]], "is a list"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"\(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
    ],
)
def test_arrays_that_are_no_photo_are_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_photo(image)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 1024))
def test_the_longest_side_becomes_the_side_and_the_other_keeps_the_ratio(height: int, width: int, side: int) -> None:
    resized = resized_size((height, width), side)
    assert max(resized) == side and min(resized) >= 1
    shorter = min(height, width) * side / max(height, width)
    assert min(resized) == 1 or abs(min(resized) - shorter) <= 0.5 + 1e-9
