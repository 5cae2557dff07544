"""The part of a photo that a training sample shows, drawn as inference would draw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_edge.image import resized_size

__all__ = ["View"]

Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """`matrix` (2, 3) takes pixels (x, y) of a photo of `photo_size` (H, W) to the model's frame of `side` px.

    `cv2.warpAffine` takes single pixels where it shrinks, whatever filter it is given, while inference shrinks with
    antialiasing (image.py). So a photo is shrunk in the same way first, and only the rest is warped.
    """

    matrix: NDArray[np.float64]
    photo_size: Size
    side: int

    @classmethod
    def whole(cls, photo_size: Size, side: int) -> View:
        """The photo at the top left, as `image.preprocess` puts it."""
        height, width = resized_size(photo_size, side)
        scale = np.array([width / photo_size[1], height / photo_size[0]])
        return cls(np.column_stack([np.diag(scale), _centred(scale)]), photo_size, side)

    @classmethod
    def window(cls, photo_size: Size, side: int, scale: float, left: float, top: float) -> View:
        """`side` px of the photo enlarged by `scale`, from (left, top) in the photo's pixels."""
        scales = np.array([scale, scale])
        offset = _centred(scales) - scale * np.array([left, top])
        return cls(np.column_stack([np.diag(scales), offset]), photo_size, side)

    def flipped(self) -> View:
        """Mirrored in place, so that padding stays on the right."""
        scale, offset = self.matrix[0, 0], self.matrix[0, 2]
        right = offset + scale * (self.photo_size[1] - 0.5) + 0.5  # where the photo ends, in the frame
        matrix = self.matrix.copy()
        matrix[0] = -scale, 0, min(self.side, right) - 1 - offset
        return View(matrix, self.photo_size, self.side)

    def of_photo(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 -> (side, side, 3) uint8, 0 outside the photo."""
        return self._warped(photo)

    def of_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(H, W) bool -> (side, side) uint8 in {0, 1}: 1 where the object covers at least half of a pixel."""
        return np.asarray(self._warped(mask.astype(np.uint8) * 255) > 127, np.uint8)

    def inside(self) -> NDArray[np.uint8]:
        """(side, side) uint8: 1 where there is photo."""
        photo = np.ones(self.photo_size, np.uint8)
        return _uint8(cv2.warpAffine(photo, self.matrix, (self.side, self.side), flags=cv2.INTER_NEAREST))

    def _warped(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image, matrix = self._shrunk(image)
        frame, border = (self.side, self.side), cv2.BORDER_REPLICATE  # as a resize has it: edges do not fade
        warped = _uint8(cv2.warpAffine(image, matrix, frame, flags=cv2.INTER_LINEAR, borderMode=border))
        warped[self.inside() == 0] = 0
        return warped

    def _shrunk(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """The image, smaller where the view is smaller, and the matrix from it to the frame."""
        scale = np.abs(self.matrix[[0, 1], [0, 1]])  # across, down
        if (scale >= 1).all():
            return image, self.matrix
        full = np.array(self.photo_size[::-1])
        small = np.maximum(1, np.floor(full * np.minimum(scale, 1) + 0.5)).astype(int)
        resized = Image.fromarray(image).resize((int(small[0]), int(small[1])), Image.Resampling.BILINEAR)
        back = full / small  # a pixel of the small image in pixels of the photo
        linear, offset = self.matrix[:, :2], self.matrix[:, 2]
        return np.array(resized), np.column_stack([linear * back, offset + linear @ _centred(back)])


def _centred(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The offset with which a scaling takes pixel centres to pixel centres."""
    return 0.5 * scale - 0.5


def _uint8(image: Any) -> NDArray[np.uint8]:
    return np.asarray(image, np.uint8)
