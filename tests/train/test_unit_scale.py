"""The start of a trunk that nobody has trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam_edge.errors import DataError
from sam_edge.evaluate.dataset import open_records
from sam_edge.image import preprocess
from sam_edge.model.registry import build_model
from sam_edge.model.scaled_conv import ScaledConv
from sam_edge.model.trunks import TRUNKS, Trunk
from sam_edge.train.unit_scale import bring_to_unit_scale
from tests.sa1b import write_set


@pytest.mark.parametrize("name", sorted(TRUNKS))
def test_every_convolution_has_mean_0_and_deviation_1_on_the_photos_it_was_set_from(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = build_model("nano", image_size=128).spec
    records = open_records([write_set(tmp_path)])
    trunk = Trunk(TRUNKS[name]).eval()
    bring_to_unit_scale(trunk, records, spec)

    seen: list[tuple[Tensor, Tensor]] = []

    def remember(conv: ScaledConv, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        relu6, conv.relu6 = conv.relu6, False
        seen.append(torch.std_mean(conv.forward(*inputs), (0, 2, 3), correction=0))
        conv.relu6 = relu6

    for conv in (module for module in trunk.modules() if isinstance(module, ScaledConv)):
        conv.register_forward_hook(remember)
    with torch.inference_mode():
        images = torch.cat([torch.from_numpy(preprocess(record.photo(), spec)[0]) for record in records])
        trunk(images)
    assert len(seen) > 20
    for deviation, mean in seen:
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=2e-3)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=2e-3, atol=2e-3)


def test_a_photo_that_cannot_be_read_is_left_out_and_nothing_but_such_is_an_error(tmp_path: Path) -> None:
    spec = build_model("nano", image_size=64).spec
    folder = write_set(tmp_path)
    photos = sorted(folder.glob("*.jpg"))
    photos[0].write_bytes(b"no photo")
    bring_to_unit_scale(Trunk(TRUNKS["repvit"]).eval(), open_records([folder]), spec)
    for photo in photos:
        photo.write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"none of 3 photos can be read; .*coffee.*is not a photo") as caught:
        bring_to_unit_scale(Trunk(TRUNKS["repvit"]).eval(), open_records([folder]), spec)
    assert str(caught.value).count("coffee") == 1
