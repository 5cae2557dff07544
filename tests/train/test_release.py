from __future__ import annotations

import copy
from pathlib import Path

import torch

from sam_edge.model.checkpoints import load_checkpoint, save_checkpoint
from sam_edge.model.sam import Sam
from sam_edge.train.release import averaged, recut, released, scaled
from tests.model_inputs import random_image, random_prompts
from tests.tiny_models import tiny_model


def with_scales(factor: float) -> Sam:
    model = tiny_model("nano")
    for name, buffer in model.named_buffers():
        if name.endswith(".scale"):
            buffer.fill_(factor)
    return model


def test_scales_are_multiplied_in_without_a_change_of_what_is_computed() -> None:
    model = with_scales(0.5)
    image = torch.rand(1, 3, 64, 64)
    before = model.encode(image)[0]
    after = scaled(model).encode(image)[0]
    assert torch.allclose(before, after, atol=1e-5)
    assert all((buffer == 1).all() for name, buffer in model.named_buffers() if name.endswith(".scale"))


def test_the_mean_of_models_is_taken_of_what_they_compute_with(tmp_path: Path) -> None:
    """Half the weights under double the scale are the same layer: its mean with itself is itself."""
    model, other = with_scales(1.0), with_scales(2.0)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "trunk" in name and parameter.ndim == 4:
                parameter.mul_(0.5)
    mean = averaged([scaled(copy.deepcopy(model)), scaled(other)])
    for name, value in model.state_dict().items():
        assert torch.allclose(mean.state_dict()[name], value, atol=1e-6), name


def test_a_release_holds_what_float16_holds(tmp_path: Path) -> None:
    model = released(with_scales(0.7))
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())
    save_checkpoint(model, tmp_path / "release.safetensors", dtype=torch.float16)
    read = load_checkpoint(tmp_path / "release.safetensors").state_dict()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())


def test_masks_of_boxes_cut_lower_are_the_same_logits_moved_up_and_all_others_stay() -> None:
    model = tiny_model("nano")
    prompts = [torch.from_numpy(part) for part in vars(random_prompts(model.spec, 4, 2)).values()]
    _, labels, _, has_mask_input = prompts  # the first prompt is a box without a mask
    labels[1] = labels[0]  # the second a box with one
    assert has_mask_input.tolist() == [0, 1, 0, 1]
    with torch.inference_mode():
        embeddings = model.encode(torch.from_numpy(random_image(model.spec)))
        before = model.decode(embeddings, *prompts)[0]
        after = recut(model, -0.5).decode(embeddings, *prompts)[0]
    moved = torch.tensor([0.5, 0, 0, 0]).view(-1, 1, 1, 1)
    assert torch.allclose(after, before + moved, atol=1e-4)
