"""segment-anything's `ResizeLongestSide`: code written for it calls `predictor.transform`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam_edge.image import Photo, Size, check_photo, resize_longest_side, resized_size
from sam_edge.prompts import scale_boxes, scale_points

__all__ = ["ResizeLongestSide", "is_tensor", "like", "to_array"]


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, found out without importing torch: who made one has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_array(value: Any) -> NDArray[Any]:
    """A tensor or anything array-like as NumPy."""
    return np.asarray(value.detach().cpu().numpy() if is_tensor(value) else value)


def like(array: NDArray[Any], example: Any) -> Any:
    """`array` as `example` came: a tensor on its device, or the array itself."""
    if not is_tensor(example):
        return array
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(array)).to(example.device)


class ResizeLongestSide:
    """Photos, points and boxes in the photo's pixels to those of the image whose longest side is `target_length`."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: Photo) -> Photo:
        """(H, W, 3) uint8 to (h, w, 3) uint8."""
        check_photo(image)
        return resize_longest_side(image, self.target_length)

    def apply_coords(self, coords: ArrayLike, original_size: Size) -> NDArray[np.float64]:
        """(..., 2) x, y."""
        return scale_points(coords, original_size, self.get_preprocess_shape(*original_size, self.target_length))

    def apply_boxes(self, boxes: ArrayLike, original_size: Size) -> NDArray[np.float64]:
        """(B, 4) xyxy."""
        return scale_boxes(boxes, original_size, self.get_preprocess_shape(*original_size, self.target_length))

    def apply_coords_torch(self, coords: Any, original_size: Size) -> Any:
        """As apply_coords, float32, a tensor for a tensor."""
        return like(self.apply_coords(to_array(coords), original_size).astype(np.float32), coords)

    def apply_boxes_torch(self, boxes: Any, original_size: Size) -> Any:
        """As apply_boxes, float32, a tensor for a tensor."""
        return like(self.apply_boxes(to_array(boxes), original_size).astype(np.float32), boxes)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> Size:
        """(h, w) after resizing."""
        return resized_size((oldh, oldw), long_side_length)
