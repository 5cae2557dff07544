"""Work that knows nothing of our code, done beside every stage: how fast this machine was just then."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["Yardstick"]

ROWS, INNER, COLUMNS = 1024, 512, 1024
PHOTO_SIDE_PX, KERNEL_PX = 512, 7
FILTERINGS = 4


class Yardstick:
    """A matrix product and a filter over a photo on all threads, some milliseconds of each.

    A model's layers are of both kinds. Of the candidates tried beside `nano` on a shared virtual machine (a small and a
    large product, a copy, a filter, a Python loop) these two together followed an encode and a click best: the ratio
    of two runs' medians over ten rounds varied by 2.0 to 4.5 %, without them by 5.7 to 9.8 % (docs/benchmarks.md).
    """

    def __init__(self) -> None:
        draw = np.random.default_rng(0)

        def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            return draw.normal(size=shape).astype(np.float32)

        self._left, self._right, self._product = noise(ROWS, INNER), noise(INNER, COLUMNS), noise(ROWS, COLUMNS)
        self._photo, self._kernel = noise(PHOTO_SIDE_PX, PHOTO_SIDE_PX, 3), noise(KERNEL_PX, KERNEL_PX)
        self._filtered = np.empty_like(self._photo)

    def __call__(self, _: int) -> None:
        np.matmul(self._left, self._right, out=self._product)
        for _ in range(FILTERINGS):
            cv2.filter2D(self._photo, -1, self._kernel, dst=self._filtered)
