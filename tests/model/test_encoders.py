"""The encoders beside their golden values: other input sides, memory, and what export needs of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sam_edge.contract import HIGH_RES_STRIDES
from sam_edge.model.registry import build_model
from sam_edge.model.sam import Sam
from sam_edge.model.tinyvit import window_distances
from sam_edge.model.vit import relative_positions, resize_positions, resize_table, window_partition, window_unpartition
from tests.tiny_models import TINY_CONFIGS, tiny_model

LADDER = (256, 384, 512, 768, 1024)


@pytest.mark.parametrize("kind", sorted(TINY_CONFIGS))
@pytest.mark.parametrize("side", LADDER)
def test_encoder_takes_every_side_of_the_ladder(kind: str, side: int) -> None:
    model = tiny_model(kind, side)
    with torch.inference_mode():
        embedding, *features = model.encode(torch.randn(1, 3, side, side))
    assert embedding.shape == (1, 32, side // 16, side // 16)
    strides = HIGH_RES_STRIDES if kind == "nano" else ()
    assert [x.shape[2:] for x in features] == [(side // stride, side // stride) for stride in strides]
    assert embedding.isfinite().all() and embedding.std() > 0


@pytest.mark.parametrize("kind", sorted(TINY_CONFIGS))
def test_images_in_a_batch_do_not_touch_each_other(kind: str) -> None:
    model, images = tiny_model(kind), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        together, alone = model.encode(images), [model.encode(image[None]) for image in images]
    for got, want in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(got, torch.cat(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "size"), [(5, 7, 4), (14, 14, 14), (16, 16, 14), (1, 3, 2), (9, 6, 3)])
def test_windows_are_cut_in_reading_order_padded_with_zeros_and_go_back(height: int, width: int, size: int) -> None:
    x = torch.randn(2, height, width, 3)
    windows = window_partition(x, size)
    padded = torch.zeros(2, -(-height // size) * size, -(-width // size) * size, 3)
    padded[:, :height, :width] = x
    rows = [image[i : i + size, j : j + size] for image in padded for i in range(0, padded.shape[1], size)
            for j in range(0, padded.shape[2], size)]  # fmt: skip
    assert torch.equal(windows, torch.stack(rows))
    assert torch.equal(window_unpartition(windows, (height, width)), x)


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_tinyvit_bias_index_is_the_order_in_which_distances_are_first_seen(size: int) -> None:
    places = [(y, x) for y in range(size) for x in range(size)]
    seen: dict[tuple[int, int], int] = {}
    index = [[seen.setdefault((abs(y - v), abs(x - u)), len(seen)) for v, u in places] for y, x in places]
    assert window_distances(size).tolist() == index


def test_biases_are_those_loaded_last_even_after_a_run() -> None:
    """The original caches its bias tables in `eval()` and, loaded afterwards, keeps the old ones."""
    model, image = tiny_model("tinyvit"), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = model.encode(image)[0]
        state = {name: x + 1.0 * name.endswith("attention_biases") * torch.randn_like(x) if x.is_floating_point() else x
                 for name, x in model.state_dict().items()}  # fmt: skip
        model.load_state_dict(state)
        after = model.encode(image)[0]
    fresh = build_model(TINY_CONFIGS["tinyvit"])
    fresh.load_state_dict(state)
    with torch.inference_mode():
        assert torch.equal(after, fresh.encode(image)[0])
    assert (after - before).abs().max() > 1e-3


def test_resized_positions_are_what_interpolating_in_every_run_would_give() -> None:
    config = TINY_CONFIGS["vit"].with_image_size(128).encoder
    state = tiny_model("vit").state_dict()
    resized = resize_positions(state, config)  # type: ignore[arg-type]
    table = state["image_encoder.blocks.1.attn.rel_pos_h"]
    assert torch.equal(
        relative_positions(8, 8, table), relative_positions(8, 8, resized["image_encoder.blocks.1.attn.rel_pos_h"])
    )
    assert resized["image_encoder.pos_embed"].shape == (1, 8, 8, 32)
    changed = {name for name in state if resized[name] is not state[name]}
    assert changed == {
        f"image_encoder.{name}" for name in ("pos_embed", "blocks.1.attn.rel_pos_h", "blocks.1.attn.rel_pos_w")
    }


def test_resizing_to_the_trained_side_changes_nothing_and_keeps_constants() -> None:
    state = tiny_model("vit").state_dict()
    same = resize_positions(state, TINY_CONFIGS["vit"].encoder)  # type: ignore[arg-type]
    assert all(torch.equal(same[name], x) for name, x in state.items())
    torch.testing.assert_close(resize_table(torch.full((7, 3), 2.5), 127), torch.full((127, 3), 2.5))


class Decode(nn.Module):
    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: tuple[Tensor, ...], *prompts: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.decode(embeddings, *prompts)


def dimensions(module: nn.Module, inputs: tuple[object, ...]) -> int:
    """The largest number of dimensions that any tensor of the exported graph has."""
    graph = torch.export.export(module.eval(), inputs).graph
    values = [node.meta.get("val") for node in graph.nodes]
    return max(x.dim() for x in values if isinstance(x, Tensor))


@pytest.mark.parametrize("kind", sorted(TINY_CONFIGS))
def test_exported_graphs_have_tensors_of_at_most_four_dimensions(kind: str) -> None:
    """Phone runtimes take no more."""
    model = tiny_model(kind)
    image = torch.randn(1, 3, 64, 64)
    assert dimensions(model.image_encoder, (image,)) <= 4
    prompts = torch.rand(2, 3, 2), torch.ones(2, 3), torch.zeros(2, 1, 16, 16), torch.zeros(2)
    assert dimensions(Decode(model), (model.encode(image), *prompts)) <= 4


GLOBAL_ATTENTION = """
import re, torch
from pathlib import Path
from sam_edge.model.vit import relative_position_attention
torch.set_num_threads(1)
def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
heads, side, dim = 2, 64, 32
q, k, v = torch.randn(3, 1, heads, side * side, dim)
rel = torch.randn(side, side, dim)
with torch.inference_mode():
    relative_position_attention(q[:, :1, :196], k[:, :1, :196], v[:, :1, :196], rel[:14, :14], rel[:14, :14])
    before = peak_bytes()
    relative_position_attention(q, k, v, rel, rel)
print((peak_bytes() - before) / (4 * heads * side**4))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak memory is read from Linux's /proc")
def test_global_attention_holds_one_matrix_of_all_pairs_of_tokens() -> None:
    run = subprocess.run([sys.executable, "-c", GLOBAL_ATTENTION], capture_output=True, text=True, check=True)
    assert 0.9 < float(run.stdout) < 1.5  # in units of heads x 4096 x 4096 float32
