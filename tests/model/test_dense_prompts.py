from __future__ import annotations

import torch

from sam_edge.contract import LABEL_BOX_BOTTOM_RIGHT, LABEL_BOX_TOP_LEFT, LABEL_EMPTY, LABEL_FOREGROUND
from sam_edge.model.dense_prompts import NUM_DENSE_PROMPT_MAPS, dense_prompt_maps

SIDE, STRIDE = 64, 4
ELLIPSE = -1


def maps(coords: list[list[float]], labels: list[int]) -> torch.Tensor:
    """(maps, SIDE / STRIDE, SIDE / STRIDE) of one prompt without a mask."""
    prompt = torch.tensor([coords]), torch.tensor([labels], dtype=torch.float32)
    mask = torch.zeros(1, 1, SIDE // 4, SIDE // 4), torch.zeros(1)
    return dense_prompt_maps(*prompt, *mask, SIDE, STRIDE, box_ellipse=True)[0]


def test_the_ellipse_is_positive_inside_the_boxs_ellipse_and_negative_in_its_corners_and_beyond() -> None:
    box = [[8.0, 16.0], [56.0, 40.0]]
    found = maps(box, [LABEL_BOX_TOP_LEFT, LABEL_BOX_BOTTOM_RIGHT])
    assert found.shape == (NUM_DENSE_PROMPT_MAPS + 1, SIDE // STRIDE, SIDE // STRIDE)
    centres = (torch.arange(SIDE // STRIDE) + 0.5) * STRIDE
    inside = ((centres[None] - 32) / 24) ** 2 + ((centres[:, None] - 28) / 12) ** 2 < 1
    assert torch.equal(found[ELLIPSE] > 0, inside)
    assert inside.any() and found[ELLIPSE].min() == -1 and 0.9 < found[ELLIPSE].max() <= 1


def test_without_a_box_its_maps_are_zero() -> None:
    found = maps([[20.0, 20.0], [0.0, 0.0]], [LABEL_FOREGROUND, LABEL_EMPTY])
    assert not found[:5].any() and not found[ELLIPSE].any()
    assert found[5].max() > 0.5  # the click's own
