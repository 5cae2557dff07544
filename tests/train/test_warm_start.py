from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sam_edge.errors import CheckpointError
from sam_edge.model.sam import Sam
from sam_edge.train.warm_start import load_earlier
from tests.model_inputs import random_image, random_prompts
from tests.tiny_models import tiny_model

WIDE = ("mask_decoder.dense_to_embedding.0.weight", "mask_decoder.dense_to_upscaled.weight")


def masks(model: Sam) -> Tensor:
    prompts = tuple(torch.from_numpy(part) for part in vars(random_prompts(model.spec, 2, 3)).values())
    with torch.inference_mode():
        return model.decode(model.encode(torch.from_numpy(random_image(model.spec))), *prompts)[0]


def test_an_earlier_nano_with_fewer_prompt_maps_begins_with_its_own_masks() -> None:
    earlier = tiny_model("nano")
    with torch.no_grad():
        for name, parameter in earlier.named_parameters():
            if name in WIDE:
                parameter[:, -1] = 0  # as if the newest map were not there
    weights = {k: v[:, :-1] if k in WIDE else v for k, v in earlier.state_dict().items()}
    model = tiny_model("nano")
    load_earlier(model, weights)
    assert torch.equal(masks(model), masks(earlier))


def test_weights_of_another_model_are_refused_by_name() -> None:
    model = tiny_model("nano")
    weights = dict(model.state_dict())
    weights["mask_decoder.iou_token.weight"] = torch.zeros(1, 3)
    del weights["mask_decoder.mask_bias"]
    with pytest.raises(CheckpointError, match=r"mask_decoder.iou_token.weight, mask_decoder.mask_bias differ"):
        load_earlier(model, weights)
