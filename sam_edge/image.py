"""From a photo's bytes to the tensor an encoder takes: read safely, resize, normalise, pad.

A photo comes from anybody, so it is bounded in bytes and in pixels before anything is decoded, only raster formats
without scripts or external programs are tried, and whatever a decoder raises becomes one `ImageError`.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sam_edge.contract import Float32, ModelSpec
from sam_edge.errors import ImageError

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "Photo",
    "Size",
    "check_photo",
    "normalise_and_pad",
    "preprocess",
    "read_photo",
    "resize_longest_side",
    "resized_size",
]

Photo: TypeAlias = NDArray[np.uint8]  # (H, W, 3) RGB
Size: TypeAlias = tuple[int, int]  # (height, width)

# Pillow knows more; EPS starts Ghostscript, FITS and others unpack without a bound, and none of them is a photo.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 100_000_000  # 300 MB decoded; the header's size is compared before a pixel is decoded
MAX_BYTES = 1 << 29  # 512 MiB: 16-bit RGB without compression at about MAX_PIXELS


def read_photo(source: str | Path | bytes | BinaryIO) -> Photo:
    """Read the first picture of a file, its bytes or an open binary stream: (H, W, 3) uint8 RGB.

    EXIF orientation is applied; grey, palette and CMYK become RGB, 16-bit grey is scaled to 8 bits, alpha is laid over
    white. Raises ImageError for what is missing, too large, damaged or not a photo.
    """
    name, data = _read_bytes(source)
    try:
        with warnings.catch_warnings():
            # Of damaged metadata, which costs no pixel, and from 89 megapixels on, where the bound that counts is ours.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(name, image.width, image.height)
                image.load()
                return _to_rgb(name, ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: the picture claims too many pixels ({error}), expected at most {MAX_PIXELS:,}. Shrink it first."
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a photo that can be read ({len(data):,} bytes). Expected one of {', '.join(FORMATS)}; "
            "convert it first."
        ) from error
    except Exception as error:  # decoders of damaged files raise nearly anything: OSError, SyntaxError, struct.error...
        raise ImageError(
            f"{name} is damaged or truncated ({type(error).__name__}: {error}), expected a complete photo. "
            "Copy or export it again."
        ) from error


def _read_bytes(source: str | Path | bytes | BinaryIO) -> tuple[str, bytes]:
    """A name for messages, and the file's content, at most MAX_BYTES."""
    if isinstance(source, bytes):
        name, data = "photo", source
    elif isinstance(source, str | Path):
        name, path = str(source), Path(source)
        if not path.exists():
            raise ImageError(f"{name} does not exist, expected a photo. Check the path.")
        if not path.is_file():
            raise ImageError(f"{name} is not a regular file, expected a photo. Give the path of a picture.")
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError(f"{name} cannot be read ({error.strerror}). Check its permissions.") from error
    else:
        name, data = str(getattr(source, "name", "photo")), source.read(MAX_BYTES + 1)
    if not data:
        raise ImageError(f"{name} is empty, expected a photo. Copy or download it again.")
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"{name} has more than {MAX_BYTES:,} bytes, the limit for a photo. Shrink or compress it first."
        )
    return name, data


def _check_size(name: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels, expected at least 1 x 1. Use another picture.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} = {width * height:,} pixels, expected at most {MAX_PIXELS:,}. Shrink it."
        )


def _to_rgb(name: str, image: Image.Image) -> Photo:
    """Any of Pillow's modes as (H, W, 3) uint8."""
    if image.mode == "F":
        raise ImageError(f"{name} has floating-point pixels, whose white is not known. Convert it to 8 or 16 bits.")
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I" is what 16-bit PGM becomes
        return np.repeat(_grey_16_to_8_bits(name, np.asarray(image))[..., None], 3, axis=-1)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return np.array(white)
    return np.array(image.convert("RGB"))


def _grey_16_to_8_bits(name: str, grey: NDArray[Any]) -> NDArray[np.uint8]:
    """0..65535 to 0..255, rounded. Pillow's own conversion clips at 255 and would return a white photo."""
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(f"{name} has 32-bit integer pixels, whose white is not known. Convert it to 8 or 16 bits.")
    return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_photo(image: Any) -> None:
    """Raise ImageError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"image is a {type(image).__name__}, expected a NumPy array (H, W, 3) uint8. "
            "Read files with sam_edge.image.read_photo."
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ImageError(
            f"image has shape {image.shape} and dtype {image.dtype}, expected (H, W, 3) uint8 with values 0 to 255. "
            "Read files with sam_edge.image.read_photo, which converts them."
        )


def resized_size(original_size: Size, side: int) -> Size:
    """(height, width) once the longest side is `side`, rounded half up as SAM does (transforms.py); at least 1 each.

    The original rounds a 1 x 4000 photo to height 0 and fails; one row is the only useful answer. Whole numbers, so
    that a graph computes the same (export/photo_input.py): at SAM's 1024 px they never differ from the original's, at
    384 px for photos whose long side is 2,816 px by one row.
    """
    longest = max(original_size)
    height, width = (max(1, (2 * length * side + longest) // (2 * longest)) for length in original_size)
    return height, width


def resize_longest_side(image: Photo, side: int) -> Photo:
    """(H, W, 3) uint8 to (h, w, 3) uint8: bilinear on 8-bit values, antialiased where it shrinks."""
    height, width = resized_size((image.shape[0], image.shape[1]), side)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def preprocess(image: Photo, spec: ModelSpec) -> tuple[NDArray[Any], Size]:
    """Photo (H, W, 3) uint8 to the encoder's image (1, 3, S, S) float32, and the (h, w) of it that the photo fills.

    Zeros are padded right and below after normalisation: they stand for the mean colour, not for black. An encoder that
    does all this itself (`photo_input`) gets the photo.
    """
    check_photo(image)
    if spec.photo_input:
        return np.ascontiguousarray(image), resized_size((image.shape[0], image.shape[1]), spec.image_size)
    resized = resize_longest_side(image, spec.image_size)
    return normalise_and_pad(resized.transpose(2, 0, 1)[None], spec), (resized.shape[0], resized.shape[1])


def normalise_and_pad(resized: NDArray[Any], spec: ModelSpec) -> Float32:
    """(1, 3, h, w) grey levels 0 to 255 to (1, 3, S, S) float32."""
    mean = np.asarray(spec.pixel_mean, np.float32)[:, None, None]
    std = np.asarray(spec.pixel_std, np.float32)[:, None, None]
    height, width = resized.shape[-2:]
    image = np.zeros((1, 3, spec.image_size, spec.image_size), np.float32)
    image[..., :height, :width] = (resized.astype(np.float32) - mean) / std
    return image
