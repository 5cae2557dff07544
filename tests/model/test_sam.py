"""What the whole model promises: prompts in a batch do not touch each other, and empty slots take no part."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from sam_edge.contract import LABEL_BOX_BOTTOM_RIGHT, LABEL_BOX_TOP_LEFT, LABEL_EMPTY, LABEL_FOREGROUND, LABEL_PADDING
from sam_edge.errors import ImageError, PromptError
from sam_edge.model.sam import Sam
from tests.golden_models import golden_model
from tests.tiny_models import tiny_model

MODELS = ("vit_mini", "nano")
# Only the order of sums differs: logits of std 1.5 to 7, and the golden README measured 4e-5 for such changes.
LOGIT_TOLERANCE = 2e-4
IOU_TOLERANCE = 2e-6


@lru_cache(maxsize=2)
def model_and_embeddings(name: str) -> tuple[Sam, tuple[Tensor, ...]]:
    """vit_mini with golden weights, whose masks depend on their prompts, and a tiny nano with its dense prompt maps."""
    model = golden_model("vit_mini") if name == "vit_mini" else tiny_model("nano")
    side = model.spec.image_size
    image = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (1, 3, side, side)).astype(np.float32))
    with torch.inference_mode():
        return model, model.encode(image)


@torch.inference_mode()
def decode(name: str, prompts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    model, embeddings = model_and_embeddings(name)
    return model.decode(embeddings, *prompts)


def random_prompts(name: str, seed: int, batch: int, slots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points of every label, half of the prompts with a mask."""
    spec, rng = model_and_embeddings(name)[0].spec, np.random.default_rng(seed)
    coords = rng.uniform(-5, spec.image_size + 5, (batch, slots, 2))
    labels = rng.integers(LABEL_PADDING, LABEL_FOREGROUND + 1, (batch, slots))
    if slots > 1:  # a box, as its two corners; at most one a prompt
        coords[0, :2] = np.sort(coords[0, :2], axis=0)
        labels[0, :2] = LABEL_BOX_TOP_LEFT, LABEL_BOX_BOTTOM_RIGHT
    mask_input = rng.uniform(-8, 8, (batch, 1, spec.mask_size, spec.mask_size))
    arrays = (coords, labels, mask_input, rng.integers(0, 2, batch))
    return tuple(torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in arrays)  # type: ignore[return-value]


def with_empty_slots(prompts: tuple[Tensor, ...], places: list[int], coordinate: float) -> tuple[Tensor, ...]:
    """Insert slots of label -2 before the given places, the same in each prompt."""
    coords, labels, *masks = prompts
    for place in sorted(places, reverse=True):
        place = min(place, coords.shape[1])
        empty = torch.full_like(coords[:, :1], coordinate), torch.full_like(labels[:, :1], LABEL_EMPTY)
        coords = torch.cat([coords[:, :place], empty[0], coords[:, place:]], dim=1)
        labels = torch.cat([labels[:, :place], empty[1], labels[:, place:]], dim=1)
    return coords, labels, *masks


def assert_same(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=LOGIT_TOLERANCE)
    torch.testing.assert_close(got[1], want[1], rtol=0, atol=IOU_TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_empty_slots_change_no_mask_wherever_they_are_and_whatever_they_hold(name: str, data: st.DataObject) -> None:
    batch, slots = data.draw(st.integers(1, 3), "batch"), data.draw(st.integers(1, 5), "slots")
    prompts = random_prompts(name, data.draw(st.integers(0, 999), "seed"), batch, slots)
    places = data.draw(st.lists(st.integers(0, slots), min_size=1, max_size=6), "places")
    padded = with_empty_slots(prompts, places, data.draw(st.sampled_from([0.0, 17.5, -1e4, 1e4]), "coordinate"))
    assert_same(decode(name, padded), decode(name, prompts))


@pytest.mark.parametrize("name", MODELS)
def test_only_empty_slots_are_no_prompt_however_many(name: str) -> None:
    coords, labels, mask_input, has_mask_input = random_prompts(name, 3, 1, 1)
    one = coords, torch.full_like(labels, LABEL_EMPTY), mask_input, has_mask_input
    assert_same(decode(name, with_empty_slots(one, [0, 0, 0], 5.0)), decode(name, one))


@pytest.mark.parametrize("name", MODELS)
def test_padding_point_is_not_an_empty_slot(name: str) -> None:
    coords, labels, mask_input, has_mask_input = random_prompts(name, 4, 1, 2)
    labels[:] = torch.tensor([LABEL_FOREGROUND, LABEL_PADDING])
    with_padding = decode(name, (coords, labels, mask_input, has_mask_input))
    labels[:, 1] = LABEL_EMPTY
    with_empty = decode(name, (coords, labels, mask_input, has_mask_input))
    assert (with_padding[0] - with_empty[0]).abs().max() > 100 * LOGIT_TOLERANCE


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("batch", "slots"), [(2, 1), (5, 3), (3, 7)])
def test_prompts_in_one_call_equal_single_calls(name: str, batch: int, slots: int) -> None:
    prompts = random_prompts(name, seed=batch, batch=batch, slots=slots)
    together = decode(name, prompts)
    alone = [decode(name, tuple(x[i : i + 1] for x in prompts)) for i in range(batch)]
    assert_same(together, (torch.cat([masks for masks, _ in alone]), torch.cat([iou for _, iou in alone])))


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_given_once_per_prompt_equal_one_for_all(name: str) -> None:
    model, embeddings = model_and_embeddings(name)
    prompts = random_prompts(name, seed=8, batch=3, slots=2)
    repeated = tuple(x.expand(3, -1, -1, -1) for x in embeddings)
    with torch.inference_mode():
        assert_same(model.decode(repeated, *prompts), decode(name, prompts))


@pytest.mark.parametrize("name", MODELS)
def test_mask_input_counts_only_where_it_is_given(name: str) -> None:
    coords, labels, mask_input, _ = random_prompts(name, seed=9, batch=1, slots=2)
    absent, given_ = torch.zeros(1), torch.ones(1)
    without = decode(name, (coords, labels, mask_input, absent))
    assert_same(decode(name, (coords, labels, -mask_input, absent)), without)
    assert (decode(name, (coords, labels, mask_input, given_))[0] - without[0]).abs().max() > 100 * LOGIT_TOLERANCE


def record(model: Sam, **prompts: Any) -> dict[str, Any]:
    side = model.spec.image_size
    image = torch.randint(0, 256, (3, side // 2, side), dtype=torch.uint8)
    return {"image": image, "original_size": (40, 80), **prompts}


def test_forward_takes_photos_without_any_prompt_and_returns_the_photos_size() -> None:
    model = tiny_model("vit")
    single, multi = model([record(model)], False)[0], model([record(model)], True)[0]
    assert single["masks"].shape == (1, 1, 40, 80) and single["masks"].dtype == torch.bool
    assert multi["masks"].shape == (1, 3, 40, 80) and multi["iou_predictions"].shape == (1, 3)
    assert multi["low_res_logits"].shape == (1, 3, 16, 16)
    assert not multi["low_res_logits"].requires_grad


def test_forward_refuses_prompts_that_do_not_fit_together() -> None:
    model = tiny_model("vit")
    points, labels = torch.zeros(2, 1, 2), torch.ones(2, 1)
    for half in ({"point_coords": points}, {"point_labels": labels}):
        with pytest.raises(PromptError, match="must come together"):
            model([record(model, **half)], False)
    with pytest.raises(PromptError, match=r"differ in number: \{'points': 2, 'boxes': 3\}"):
        model([record(model, point_coords=points, point_labels=labels, boxes=torch.zeros(3, 4))], False)


def test_preprocess_refuses_an_image_that_was_not_resized() -> None:
    model = tiny_model("vit")
    with pytest.raises(ImageError, match=r"height and width \(65, 10\), expected at most 64"):
        model.preprocess(torch.zeros(3, 65, 10))


def test_model_comes_in_evaluation_mode_with_its_configuration() -> None:
    for kind in ("vit", "tinyvit", "nano"):
        model = tiny_model(kind)
        assert not any(module.training for module in model.modules())
        assert model.config.spec == model.spec
