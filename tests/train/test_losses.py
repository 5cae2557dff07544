from __future__ import annotations

import torch
import torch.nn.functional as F

from sam_edge.train.losses import LossWeights, enlarged, mask_iou, mask_losses, prompt_losses, surroundings

BATCH, SIDE = 3, 16


def target() -> torch.Tensor:
    mask = torch.zeros(BATCH, 1, SIDE, SIDE)
    mask[:, :, 4:12, 4:12] = 1
    return mask


def logits_of(mask: torch.Tensor, sure: float = 20.0) -> torch.Tensor:
    return (mask * 2 - 1) * sure


def test_a_perfect_mask_costs_nothing_and_a_wrong_one_much() -> None:
    right = mask_losses(logits_of(target()), target(), LossWeights())
    wrong = mask_losses(logits_of(1 - target()), target(), LossWeights())
    assert right.max() < 1e-3
    assert wrong.min() > 10


def test_a_soft_target_is_best_met_by_its_own_logit() -> None:
    soft = torch.full((1, 1, SIDE, SIDE), 0.3)
    losses = [
        mask_losses(torch.full_like(soft, x), soft, LossWeights(focal=1.0)).item()
        for x in (-3.0, torch.logit(torch.tensor(0.3)).item(), 3.0)
    ]
    assert losses[1] == min(losses)


def test_iou_counts_two_empty_masks_as_equal_and_one_empty_mask_as_wrong() -> None:
    empty = torch.zeros(1, 1, SIDE, SIDE)
    some = target()[:1]
    assert mask_iou(logits_of(empty), empty).item() == 1
    assert mask_iou(logits_of(empty), some).item() == 0
    assert mask_iou(logits_of(some), some).item() == 1


def test_only_the_best_alternative_is_taught() -> None:
    masks = torch.zeros(BATCH, 4, SIDE, SIDE) - 1
    masks[:, 2] = logits_of(target())[:, 0] * 0.05  # the second alternative is the closest
    masks.requires_grad_()
    losses = prompt_losses(masks, torch.zeros(BATCH, 4), target(), first=True)
    (gradient,) = torch.autograd.grad(losses.best, masks)
    assert gradient[:, 2].abs().sum() > 0
    assert gradient[:, [0, 1, 3]].abs().sum() == 0


def test_a_correction_teaches_the_single_mask_alone() -> None:
    masks = torch.randn(BATCH, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    iou = torch.rand(BATCH, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses = prompt_losses(masks, iou, target(), first=False)
    mask_gradient, iou_gradient = torch.autograd.grad(losses.total, (masks, iou))
    assert mask_gradient[:, 1:].abs().sum() == 0 and mask_gradient[:, 0].abs().sum() > 0
    assert iou_gradient[:, 1:].abs().sum() == 0 and iou_gradient[:, 0].abs().sum() > 0


def test_the_surroundings_are_the_box_and_a_margin() -> None:
    near = surroundings(target(), margin=0.25, least=1)  # rows and columns 4 to 11, 8 long: 3 cells more on each side
    expected = torch.zeros(SIDE, SIDE)
    expected[1:15, 1:15] = 1
    assert torch.equal(near[0, 0], expected)
    assert surroundings(torch.zeros(1, 1, SIDE, SIDE)).sum() == 0


def test_the_loss_near_an_object_weighs_a_small_one_as_much_as_a_large_one() -> None:
    def wrong_by_half(side: int) -> float:
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., 8 : 8 + side, 8 : 8 + side] = 1
        half = mask.clone()
        half[..., 8 + side // 2 : 8 + side, :] = 0
        with_near, without = (
            mask_losses(logits_of(half, 4.0), mask, LossWeights(near=weight)) for weight in (1.0, 0.0)
        )
        return float(with_near - without)

    assert 0.4 < wrong_by_half(8) / wrong_by_half(32) < 1.5


def test_the_jaccard_loss_is_what_the_masks_lack_of_iou_one() -> None:
    """Half of an object of 64 cells is drawn: IoU 0.5; one cell is added to both counts, so that empty masks agree."""
    half = target()
    half[:, :, 4:8] = 0
    with_it, without = (mask_losses(logits_of(half), target(), LossWeights(jaccard=w)) for w in (1.0, 0.0))
    torch.testing.assert_close(with_it - without, torch.full((BATCH, 1), 1 - 33 / 65))


def test_masks_are_judged_enlarged_to_the_grid_of_the_target() -> None:
    fine = F.interpolate(target(), scale_factor=4.0)
    logits = logits_of(target(), 2.0)
    weights = LossWeights(near=1.0, jaccard=1.0)
    alike = F.interpolate(logits, scale_factor=4.0, mode="bilinear")
    least = surroundings(fine, least=8).sum()
    assert least > surroundings(fine, least=2).sum()  # the margin is a width in the photo, not a number of cells
    without_near = LossWeights(jaccard=1.0)
    torch.testing.assert_close(mask_losses(logits, fine, without_near), mask_losses(alike, fine, without_near))
    near = mask_losses(logits, fine, weights) - mask_losses(logits, fine, without_near)
    wanted = F.binary_cross_entropy_with_logits(alike, fine, reduction="none") * surroundings(fine, least=8)
    torch.testing.assert_close(near, wanted.sum((2, 3)) / least * BATCH)


def test_logits_taught_in_pixels_draw_a_small_object_better_than_those_taught_in_their_own_cells() -> None:
    """A ring of 2 px: no cell of 4 px is more than half covered, so a cell's share says that it is not there."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    radius = torch.sqrt(x * x + y * y)
    ring = ((radius > 9) & (radius < 11)).float()[None, None]

    def taught(stride: int) -> float:
        logits = torch.zeros(1, 1, 16, 16, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.3)
        for _ in range(120):
            loss = mask_losses(logits, F.avg_pool2d(ring, stride), LossWeights(near=0.5, jaccard=1.0)).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return float(mask_iou(enlarged(logits.detach(), ring), ring))

    assert taught(1) > taught(4) + 0.1


def test_true_iou_is_measured_on_the_targets_grid() -> None:
    fine = F.interpolate(target(), scale_factor=4.0)
    masks = logits_of(target()).expand(-1, 4, -1, -1)
    true = mask_iou(F.interpolate(masks, scale_factor=4.0, mode="bilinear"), fine)
    losses = prompt_losses(masks, true, fine, first=True)
    assert true.max() < 1  # corners are rounded when a mask is enlarged
    assert losses.iou_error == 0
    assert torch.equal(losses.iou, true[:, 0])
