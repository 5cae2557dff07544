"""Annotated masks as what is taught and measured: only where they belong to the photo as it is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import Object, Record

__all__ = ["true_mask"]


def true_mask(record: Record, found: Object, photo_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The object's mask (H, W) bool, for a photo of `photo_size` (H, W) once it stands upright.

    Raises DataError where the mask is of another size (a photo that was turned or resized after it was annotated) or
    empty.
    """
    if found.size != photo_size:
        raise DataError(
            f"{record.where}: object {found.id} has a mask of {found.size} (height, width) on a photo of "
            f"{photo_size}; both must agree. Write the annotation again at the stored size."
        )
    mask = found.mask()
    if not mask.any():
        raise DataError(
            f"{record.where}: object {found.id} has an empty mask but an area of {found.area} px; "
            "remove the annotation or write it again."
        )
    return mask
