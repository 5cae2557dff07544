"""Masks that cost nothing, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sam_edge.evaluate import baselines
from sam_edge.evaluate.metrics import mask_iou
from sam_edge.evaluate.simulate import Click, tight_box


def test_a_filled_box_fills_the_tight_box() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[3:9, 5:17] = True
    assert np.array_equal(baselines.filled_box(tight_box(mask), mask.shape), mask)


def test_an_ellipse_fills_pi_quarters_of_its_box_and_touches_its_sides() -> None:
    ellipse = baselines.ellipse_in_box(np.array([10.0, 20.0, 210.0, 120.0]), (150, 250))
    assert ellipse.sum() / (200 * 100) == pytest.approx(np.pi / 4, abs=0.002)
    assert tight_box(ellipse).tolist() == [10, 20, 210, 120]


def test_a_disc_has_a_radius_of_0138_of_the_longest_side() -> None:
    disc = baselines.click_disc(Click(100, 60, 1), (200, 300))
    assert np.sqrt(disc.sum() / np.pi) == pytest.approx(0.138 * 300, abs=0.2)
    box = tight_box(disc)
    assert ((box[:2] + box[2:]) / 2).tolist() == [100.5, 60.5]


def test_grabcut_finds_a_red_disc_on_green_the_same_each_time() -> None:
    y, x = np.mgrid[:120, :160]
    truth = (x - 80) ** 2 + (y - 60) ** 2 <= 30**2
    noise = np.random.default_rng(0).integers(0, 30, (120, 160, 3))
    image = (np.where(truth[..., None], (200, 20, 20), (20, 180, 20)) + noise).astype(np.uint8)
    found = baselines.grabcut(image, tight_box(truth))
    assert mask_iou(found, truth) > 0.97
    assert np.array_equal(found, baselines.grabcut(image, tight_box(truth)))


def test_grabcut_without_background_or_without_a_find_gives_the_filled_box() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert baselines.grabcut(grey, np.array([0.0, 0.0, 64.0, 64.0])).all()
    box = np.array([20.0, 20.0, 40.0, 40.0])
    assert np.array_equal(baselines.grabcut(grey, box), baselines.filled_box(box, (64, 64)))
