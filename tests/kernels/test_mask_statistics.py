"""The kernels of everything mode's filter against masks at the photo's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sam_edge import masks as host
from sam_edge.boxes import mask_to_box
from sam_edge.everything import SamAutomaticMaskGenerator
from sam_edge.kernels.mask_statistics import full_size_masks, mask_statistics, reference, supports
from tests.kernels.compare import DEVICE

SIZES = [  # S, the photo in the model's image, the photo
    (64, (64, 48), (64, 48)),  # the second step changes nothing
    (64, (43, 64), (70, 104)),  # enlarged
    (64, (64, 37), (31, 18)),  # made smaller
    (64, (64, 64), (7, 7)),  # smaller than the logits
]


def make_logits(n: int, cells: int, seed: int = 0) -> Tensor:
    """Blobs: smooth logits of which a part is above 0; the last mask is empty, and the one before it full."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 5, 5, generator=generator) * 4 - 2
    logits = torch.nn.functional.interpolate(coarse, (cells, cells), mode="bicubic").squeeze(1)
    logits += 0.1 * torch.randn(n, cells, cells, generator=generator)
    logits[n - 1], logits[n - 2 : n - 1] = -20, 20
    return logits.to(DEVICE)


@pytest.mark.parametrize(("side", "input_size", "original_size"), SIZES)
def test_statistics_are_those_of_the_hosts_masks(
    side: int, input_size: tuple[int, int], original_size: tuple[int, int]
) -> None:
    """Not one pixel apart: the kernel weighs as OpenCV does, and no logit here lies within rounding of a level."""
    low_res = make_logits(4, side // 4)
    found = mask_statistics(low_res, side, input_size, original_size)
    array = low_res.cpu().numpy()
    logits = host.upscale_logits(array, side, input_size, original_size)
    masks = host.upscale_masks(array, side, input_size, original_size)
    np.testing.assert_array_equal(found.areas.cpu().numpy(), masks.sum((1, 2)))
    np.testing.assert_array_equal(found.boxes_xyxy.cpu().numpy(), mask_to_box(masks))
    np.testing.assert_array_equal(found.stability_score.cpu().numpy(), host.stability_score(logits, 0.0, 1.0))
    full = full_size_masks(low_res, side, input_size, original_size)
    np.testing.assert_array_equal(full.cpu().numpy(), masks)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    cells=st.sampled_from((8, 16, 24)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    filled=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
    n=st.integers(2, 4),
    threshold=st.sampled_from((0.0, -1.0, 2.0)),
    seed=st.integers(0, 99),
)
def test_any_size_has_the_counts_of_the_reference(
    cells: int, shape: tuple[int, int], filled: tuple[float, float], n: int, threshold: float, seed: int
) -> None:
    """Up to pixels that lie within rounding of a level, which torch's float32 positions move to its other side."""
    low_res, side = make_logits(n, cells, seed), 4 * cells
    input_size = max(1, int(side * filled[0])), max(1, int(side * filled[1]))
    got = mask_statistics(low_res, side, input_size, shape, threshold, 0.5)
    logits = reference.upscale_logits(low_res, side, input_size, shape)
    close = ((logits - threshold).abs() < 1e-4).sum((1, 2))
    full = full_size_masks(low_res, side, input_size, shape, threshold)
    for area in (got.areas, full.sum((1, 2))):
        assert ((area - (logits > threshold).sum((1, 2))).abs() <= close).all()
    want = reference.counts(low_res, side, input_size, shape, threshold, 0.5)
    if not close.any():
        torch.testing.assert_close(got.boxes_xyxy, want[:, 3:].long() * (want[:, 2:3] > 0))
    torch.testing.assert_close(got.stability_score, want[:, 0] / want[:, 1], equal_nan=True, rtol=0.02, atol=0)


def test_a_pixel_alone_is_seen_in_any_tile() -> None:
    """No tile is left out because its cells looked empty."""
    for cell in range(0, 256, 25):
        low_res = torch.full((1, 16, 16), -4.0, device=DEVICE)
        low_res[0, cell // 16, cell % 16] = 40.0
        found = mask_statistics(low_res, 64, (64, 64), (50, 70))
        want = reference.counts(low_res, 64, (64, 64), (50, 70), 0.0, 1.0)
        assert (found.areas == want[:, 2]).all() and (found.boxes_xyxy == want[:, 3:]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_read_exactly(dtype: torch.dtype) -> None:
    low_res = make_logits(3, 16).to(dtype)
    got, want = (mask_statistics(x, 64, (64, 50), (40, 31)) for x in (low_res, low_res.float()))
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(got, want, strict=True))


def test_masks_of_a_larger_tensor_are_read_in_place() -> None:
    four = make_logits(4, 16).reshape(2, 2, 16, 16)
    args = 64, (64, 50), (40, 31)
    got, want = mask_statistics(four[:, 1], *args), mask_statistics(four[:, 1].clone(), *args)
    across = mask_statistics(four[:, 1].mT.contiguous().mT, *args)
    for found in (got, across):
        assert torch.equal(found.areas, want.areas) and torch.equal(found.boxes_xyxy, want.boxes_xyxy)


def test_survivors_are_those_of_everything_mode() -> None:
    """The filter of `SamAutomaticMaskGenerator` on the same logits: the same masks pass, with the same records."""
    low_res = make_logits(5, 16, seed=5)
    sizes = (45, 64), (54, 77)
    found = mask_statistics(low_res, 64, *sizes)
    keep = found.stability_score >= 0.8
    assert 0 < keep.sum() < len(keep) - 1

    from sam_edge.everything import _Crop

    generator = SamAutomaticMaskGenerator.__new__(SamAutomaticMaskGenerator)
    generator.stability_score_offset, generator.stability_score_thresh = 1.0, 0.8
    crop = _Crop(np.array([0, 0, 77, 54]), sizes[0], sizes[1], sizes[1])
    for index, logits in enumerate(low_res.cpu().numpy()):
        candidate = generator._examine(logits, 1.0, np.zeros(2), crop)
        assert (candidate is not None) == bool(keep[index])
        if candidate is not None:
            assert candidate.box.tolist() == found.boxes_xyxy[index].tolist()
            assert candidate.stability_score == pytest.approx(float(found.stability_score[index]), abs=1e-6)


def test_torch_compile_and_export_pass_through() -> None:
    low_res = make_logits(3, 16)

    class Filter(torch.nn.Module):
        def forward(self, low_res: Tensor) -> tuple[Tensor, Tensor]:
            found = mask_statistics(low_res, 64, (64, 50), (40, 31))
            return found.areas, full_size_masks(low_res, 64, (64, 50), (40, 31))

    want = Filter()(low_res)
    for run in (torch.compile(Filter(), backend="aot_eager", fullgraph=True),
                torch.export.export(Filter(), (low_res,)).module()):  # fmt: skip
        assert all(torch.equal(a, b) for a, b in zip(run(low_res), want, strict=True))


@pytest.mark.parametrize(
    ("low_res", "reason"),
    [
        (torch.zeros(3, 4, 5), "expected (N, S/4, S/4)"),
        (torch.zeros(0, 4, 4), "there are 0 masks"),
        (torch.zeros(1, 4, 4, dtype=torch.float64), "is torch.float64"),
        (torch.zeros(1, 4, 4, device="meta"), "is on meta, expected an NVIDIA GPU"),
    ],
)
def test_what_is_not_supported_says_why(low_res: Tensor, reason: str) -> None:
    assert reason in supports(low_res).reason


def test_on_the_cpu_without_the_interpreter_the_reference_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    low_res = make_logits(3, 16).cpu()
    args = 64, (64, 50), (40, 31)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = mask_statistics(low_res, *args)
    assert torch.equal(found.areas, reference.counts(low_res, *args, 0.0, 1.0)[:, 2].long())
    assert torch.equal(full_size_masks(low_res, *args), reference.upscale_logits(low_res, *args) > 0)
    assert [x.shape for x in mask_statistics(low_res[:0], *args)] == [(0,), (0, 4), (0,)]
