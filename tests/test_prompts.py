"""Prompts: SAM's slots and scaling, and every kind of bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_edge.contract import ModelSpec
from sam_edge.errors import PromptError
from sam_edge.prompts import assemble_prompts, build_prompts, scale_boxes, scale_points
from tests.golden_data import golden, inputs

SPEC = ModelSpec("test", image_size=256, embedding_channels=256)
SIZE = (480, 640)  # (height, width)
POINT: dict[str, Any] = {"point_coords": [[[320, 240]]], "point_labels": [[1]]}


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_points_and_boxes_are_scaled_as_the_original_scales_them(name: str) -> None:
    values, size = golden("utils"), inputs.IMAGE_SIZES[name]
    coords = values["resize/coords_in"]
    longest = (768, 1024) if name == "wide" else (1024, 576)
    np.testing.assert_array_equal(scale_points(coords, size, longest), values[f"resize/{name}/coords_1024"])
    np.testing.assert_array_equal(scale_points(coords.astype(int), size, longest), values[f"resize/{name}/coords_int"])
    boxes = coords.reshape(2, 4)
    np.testing.assert_array_equal(scale_boxes(boxes, size, longest), values[f"resize/{name}/boxes_1024"])
    smaller = (longest[0] // 4, longest[1] // 4)
    got = scale_points(coords, size, smaller).astype(np.float32)
    np.testing.assert_allclose(got, values[f"resize/{name}/coords_torch_256"], rtol=1e-6)


@pytest.mark.parametrize("name", ["wide", "tall"])
@pytest.mark.parametrize("key", ["point", "points", "box", "box_points", "mask_point", "padded", "box_mask"])
def test_golden_prompts_give_the_golden_coordinates(name: str, key: str) -> None:
    values, prompt = golden("vit_mini"), inputs.prompts(name)[key]
    batched = {
        part: [prompt[argument]]
        for part, argument in (("point_coords", "point_coords"), ("point_labels", "point_labels"), ("boxes", "box"))
        if argument in prompt
    }
    tensors = build_prompts(SPEC, inputs.IMAGE_SIZES[name], **batched)
    expected = np.zeros((0, 2))
    if f"{name}/{key}/coords" in values:
        expected = values[f"{name}/{key}/coords"]
    if f"{name}/{key}/box" in values:
        expected = np.concatenate([expected, values[f"{name}/{key}/box"].reshape(2, 2)])
    np.testing.assert_array_equal(tensors.point_coords[0, : len(expected)], expected.astype(np.float32))


def test_each_axis_has_its_own_ratio_since_both_sides_were_rounded() -> None:
    tensors = build_prompts(SPEC, (333, 500), point_coords=[[[500, 333]]], point_labels=[[1]])
    np.testing.assert_array_equal(tensors.point_coords[0, 0], [256, 170])


def test_padding_points_may_lie_anywhere() -> None:
    tensors = build_prompts(SPEC, SIZE, point_coords=[[[5, 5], [-1, -1]]], point_labels=[[1, -1]])
    np.testing.assert_array_equal(tensors.point_labels, [[1, -1, -1]])


def labels_of(**arguments: Any) -> list[float]:
    return list(build_prompts(SPEC, SIZE, **arguments).point_labels[0])


def test_points_are_followed_by_one_padding_point_only_where_there_is_no_box() -> None:
    box = [[10, 20, 30, 40]]
    mask = np.zeros((1, 1, 64, 64))
    assert labels_of(**POINT) == [1, -1]
    assert labels_of(point_coords=[[[1, 2], [3, 4]]], point_labels=[[0, 1]]) == [0, 1, -1]
    assert labels_of(**POINT, boxes=box) == [1, 2, 3]
    assert labels_of(boxes=box) == [2, 3]
    assert labels_of(**POINT, mask_input=mask) == [1, -1]
    assert labels_of(mask_input=mask) == [-2]
    assert labels_of() == [-2]


def test_tensors_have_the_contracts_shapes_and_types() -> None:
    tensors = build_prompts(
        SPEC,
        SIZE,
        point_coords=np.full((5, 2, 2), 9),
        point_labels=np.ones((5, 2), bool),
        boxes=np.tile([1, 2, 30, 40], (5, 1)).astype(np.uint8),
        mask_input=np.ones((5, 1, 64, 64), np.float16),
    )
    assert tensors.point_coords.shape == (5, 4, 2)
    assert tensors.point_labels.shape == (5, 4)
    assert tensors.mask_input.shape == (5, 1, 64, 64)
    np.testing.assert_array_equal(tensors.has_mask_input, np.ones(5))
    for array in vars(tensors).values():
        assert array.dtype == np.float32 and array.flags.c_contiguous


def test_without_a_mask_input_zeros_stand_and_say_so() -> None:
    tensors = build_prompts(SPEC, SIZE, **POINT)
    assert not tensors.mask_input.any() and not tensors.has_mask_input.any()


def test_one_mask_input_serves_all_prompts_of_a_batch() -> None:
    mask = np.random.default_rng(0).normal(size=(1, 1, 64, 64))
    tensors = build_prompts(SPEC, SIZE, boxes=inputs.batch_boxes("wide"), mask_input=mask)
    assert tensors.mask_input.shape == (4, 1, 64, 64)
    np.testing.assert_array_equal(tensors.mask_input[3], mask[0].astype(np.float32))


def test_a_box_may_pass_the_border_and_is_not_clipped() -> None:
    boxes = inputs.batch_boxes("wide")
    tensors = build_prompts(SPEC, SIZE, boxes=boxes)
    np.testing.assert_allclose(tensors.point_coords.reshape(4, 4), boxes * 0.4, rtol=1e-6)
    assert tensors.point_coords.min() < 0


def test_scaled_prompts_are_taken_as_they_are_wherever_they_lie() -> None:
    tensors = assemble_prompts(SPEC, point_coords=[[[-5, 300.25]]], point_labels=[[1]])
    np.testing.assert_array_equal(tensors.point_coords[0], [[-5, 300.25], [0, 0]])


@pytest.mark.parametrize("corner", [(0, 0), (640, 480), (639.9, 0.1)])
def test_points_on_the_border_are_on_the_photo(corner: tuple[float, float]) -> None:
    build_prompts(SPEC, SIZE, point_coords=[[corner]], point_labels=[[1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point_coords": [[[640.5, 10]]], "point_labels": [[1]]}, r"\(640.5, 10\) is outside .* 0 to 640 .* 0 to 480"),
        ({"point_coords": [[[10, 481]]], "point_labels": [[1]]}, r"\(10, 481\) is outside"),
        ({"point_coords": [[[10, 10], [-1, 5]]], "point_labels": [[1, 0]]}, r"\(-1, 5\) is outside"),
        ({"point_coords": [[[1, 2]]]}, "without point_labels"),
        ({"point_labels": [[1]]}, "without point_coords"),
        (
            {"point_coords": [[[1, 2], [3, 4]]], "point_labels": [[1]]},
            r"point_labels has shape \(1, 1\)",
        ),
        ({"point_coords": [[[1, 2]]], "point_labels": [[2]]}, "point_labels has 2"),
        ({"point_coords": [[[1, 2]]], "point_labels": [[-2]]}, "point_labels has -2"),
        ({"point_coords": [[[1, 2]]], "point_labels": [[0.5]]}, "point_labels has 0.5"),
        ({"point_coords": [[1, 2]], "point_labels": [[1]]}, r"point_coords has shape \(1, 2\)"),
        ({"point_coords": [[[1, 2, 3]]], "point_labels": [[1]]}, r"point_coords has shape \(1, 1, 3\)"),
        ({"point_coords": np.zeros((1, 0, 2)), "point_labels": np.zeros((1, 0))}, "no point"),
        ({"point_coords": [[[np.nan, 2]]], "point_labels": [[1]]}, "point_coords has NaN"),
        ({"point_coords": [[[1, np.inf]]], "point_labels": [[1]]}, "point_coords has NaN or inf"),
        ({"point_coords": [[[1, 2]]], "point_labels": [[np.nan]]}, "point_labels has NaN"),
        ({"point_coords": [[["1", "2"]]], "point_labels": [[1]]}, "point_coords has dtype <U1"),
        ({"point_coords": [[[1, 2j]]], "point_labels": [[1]]}, "complex"),
        ({"point_coords": [[[1, 2], [3]]], "point_labels": [[1, 1]]}, "not an array of numbers"),
        ({"point_coords": [[[1, None]]], "point_labels": [[1]]}, "dtype object"),
        ({"boxes": [[30, 20, 10, 40]]}, r"\(30, 20, 10, 40\) is empty or inverted"),
        ({"boxes": [[10, 40, 30, 20]]}, "empty or inverted"),
        ({"boxes": [[10, 20, 10, 40]]}, "empty or inverted"),
        ({"boxes": [[640, 10, 700, 20]]}, "does not overlap the photo of 640 x 480"),
        ({"boxes": [[10, -20, 30, 0]]}, "does not overlap"),
        ({"boxes": [10, 20, 30, 40]}, r"boxes has shape \(4,\)"),
        ({"boxes": [[10, 20, 30]]}, r"boxes has shape \(1, 3\)"),
        ({"boxes": np.zeros((0, 4))}, "no box"),
        ({"boxes": [[10, 20, np.inf, 40]]}, "boxes has NaN or inf"),
        ({"mask_input": np.zeros((1, 1, 256, 256))}, r"expected \(B, 1, 64, 64\)"),
        ({"mask_input": np.zeros((1, 64, 64))}, r"mask_input has shape \(1, 64, 64\)"),
        ({"mask_input": np.full((1, 1, 64, 64), np.nan)}, "mask_input has NaN"),
        ({"mask_input": np.zeros((0, 1, 64, 64))}, "no mask"),
        ({"boxes": [[1, 2, 3, 4]], "point_coords": [[[1, 2]]] * 2, "point_labels": [[1]] * 2}, "different batch sizes"),
        ({"boxes": [[1, 2, 3, 4]] * 3, "mask_input": np.zeros((2, 1, 64, 64))}, "boxes: 3, mask_input: 2"),
    ],
)
def test_bad_prompts_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        build_prompts(SPEC, SIZE, **arguments)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 4000), st.integers(1, 4000), st.floats(0, 1), st.floats(0, 1))
def test_points_on_any_photo_land_on_its_resized_image(height: int, width: int, x: float, y: float) -> None:
    tensors = build_prompts(SPEC, (height, width), point_coords=[[[x * width, y * height]]], point_labels=[[1]])
    longest = max(height, width)
    limit = [max(1, int(side * 256 / longest + 0.5)) for side in (width, height)]
    assert (tensors.point_coords[0, 0] >= 0).all()
    assert (tensors.point_coords[0, 0] <= np.array(limit) * (1 + 1e-6)).all()
