"""Our models against the original implementations' values, within the tolerances of tests/golden/README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sam_edge.contract import LABEL_EMPTY
from sam_edge.model.layers import LayerNorm2d
from sam_edge.model.registry import MODELS, build_model
from sam_edge.model.sam import Sam
from sam_edge.model.vit import (
    relative_position_attention,
    relative_position_terms,
    relative_positions,
    window_partition,
    window_unpartition,
)
from tests.golden_data import GOLDEN_DIR, golden, golden_meta, golden_state, inputs, weights
from tests.golden_models import golden_image, golden_model, golden_model_config, unpack_masks

# Largest absolute difference, except "stage": a share of the stage's largest absolute value.
TOLERANCE = {
    "features": 1e-5,
    "features_half": 2e-3,  # stored in float16
    "stage": 5e-6,
    "prompt": 1e-5,
    "low_res": 2e-4,
    "logits": 3e-4,
    "iou": 2e-6,
    "tokens_out": 1e-5,
    "image_out": 1e-5,
    "upscaled": 1e-5,
    "hyper": 3e-5,
    "pixels": 10,  # of a mask that differ
}
PROMPTS = tuple(inputs.prompts("wide"))
PUBLIC = ("vit_b", "vit_l", "vit_h", "vit_t")
VARIANTS = ("vit_mini", "vit_t_mini", *PUBLIC)
slow = pytest.mark.slow


def within(kind: str, got: Any, want: Any, scale: float = 1.0) -> None:
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{kind}: shape {got.shape}, golden {want.shape}"
    difference = np.abs(got - want).max() / scale
    assert difference <= TOLERANCE[kind], f"{kind} differs by {difference:.2e}, allowed {TOLERANCE[kind]:.0e}"


def within_pixels(got: NDArray[Any], packed: NDArray[np.uint8]) -> None:
    differing = (got != unpack_masks(packed, got.shape[-1])).sum((-2, -1))
    assert differing.max() <= TOLERANCE["pixels"], f"{differing.max()} pixels of a mask differ"


def statistics(x: NDArray[Any]) -> NDArray[np.float64]:
    """Mean, standard deviation and largest absolute value, as in the golden `_stats`."""
    return np.array([x.mean(dtype=np.float64), x.std(dtype=np.float64), np.abs(x).max()])


def size_of(height_width: NDArray[Any]) -> tuple[int, int]:
    return int(height_width[0]), int(height_width[1])


def flat_samples(x: NDArray[Any], count: int) -> NDArray[Any]:
    return x.reshape(-1)[np.arange(count) * 1000003 % x.size]


@dataclass
class Encoded:
    """One golden image gone through one model."""

    model: Sam
    golden: dict[str, NDArray[Any]]  # the fields of this image
    resized: NDArray[np.uint8]
    tensor: Tensor  # (1, 3, S, S), preprocessed
    embeddings: tuple[Tensor, ...]
    stages: dict[str, NDArray[Any]]

    def record(self, prompt: str) -> dict[str, Any]:
        """The prompt in the form of `Sam.forward`: in pixels of the resized image, as the golden file has it."""
        record: dict[str, Any] = {}
        wanted = inputs.prompts("wide")[prompt]
        if "point_coords" in wanted:
            record["point_coords"] = torch.from_numpy(self.golden[f"{prompt}/coords"])[None]
            record["point_labels"] = torch.tensor(wanted["point_labels"])[None]
        if "box" in wanted:
            record["boxes"] = torch.from_numpy(self.golden[f"{prompt}/box"])
        if "mask_input" in wanted:
            record["mask_inputs"] = torch.from_numpy(inputs.mask_logits(self.model.spec.mask_size))[None]
        return record

    def prompt_tensors(self, prompt: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.model._prompt_tensors(self.record(prompt))


@lru_cache(maxsize=1)
def cached_model(variant: str) -> Sam:
    return golden_model(variant)


@lru_cache(maxsize=1)
def cached_golden(variant: str) -> dict[str, NDArray[Any]]:
    return golden(variant)


def encode(variant: str, image: str) -> Encoded:
    model = cached_model(variant)
    fields = {key[len(image) + 1 :]: x for key, x in cached_golden(variant).items() if key.startswith(f"{image}/")}
    resized, tensor = golden_image(image, size_of(fields["input_size"]))
    stages: dict[str, NDArray[Any]] = {}

    def keep(name: str) -> Any:
        return lambda _module, _args, output: stages.__setitem__(name, output.numpy())

    hooks = [
        model.image_encoder.get_submodule(name).register_forward_hook(keep(name))
        for name in map(str, fields["stage_names"])
    ]
    with torch.inference_mode():
        preprocessed = model.preprocess(tensor)[None]
        embeddings = model.encode(preprocessed)
    for hook in hooks:
        hook.remove()
    return Encoded(model, fields, resized, preprocessed, embeddings, stages)


@pytest.fixture(
    scope="module",
    ids="-".join,
    params=[
        ("vit_mini", "wide"),
        ("vit_mini", "tall"),
        ("vit_t_mini", "wide"),
        ("vit_t_mini", "tall"),
        ("vit_t", "wide"),
        ("vit_t", "tall"),
        ("vit_b", "wide"),
        pytest.param(("vit_b", "tall"), marks=slow),
        pytest.param(("vit_l", "wide"), marks=slow),
        pytest.param(("vit_h", "wide"), marks=slow),
    ],
)
def encoded(request: pytest.FixtureRequest) -> Iterator[Encoded]:
    # One thread: the tolerances hold for any number, but the same number gives the same bits in every run.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield encode(*request.param)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_has_the_originals_names_shapes_dtypes_and_order(variant: str) -> None:
    with torch.device("meta"):
        state = build_model(golden_model_config(variant)).state_dict()
    ours = [(name, list(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in state.items()]
    entries = json.loads((GOLDEN_DIR / "shapes" / f"{variant}.json").read_text())
    assert ours == [(name, entry["shape"], entry["dtype"]) for name, entry in entries.items()]


@pytest.mark.parametrize("variant", PUBLIC)
def test_registry_has_the_originals_configuration(variant: str) -> None:
    assert MODELS[variant] == golden_model_config(variant)


@pytest.mark.parametrize("variant", ["vit_mini", "vit_t_mini", "vit_t"])
def test_golden_weights_are_those_the_values_were_made_with(variant: str) -> None:
    assert weights.digest(golden_state(variant)) == golden_meta(variant)["weights_sha256"]


def test_resized_and_preprocessed_images_equal_the_originals(encoded: Encoded) -> None:
    np.testing.assert_array_equal(encoded.resized[::11, ::13], encoded.golden["resized_sub"])
    np.testing.assert_array_equal(encoded.resized.sum((0, 1)), encoded.golden["resized_sum"])
    within("prompt", encoded.tensor.numpy()[0, :, ::23, ::23], encoded.golden["preprocessed_sub"])


def test_every_stage_of_the_encoder_agrees(encoded: Encoded) -> None:
    g = encoded.golden
    for i, name in enumerate(map(str, g["stage_names"])):
        stage, (mean, std, largest) = encoded.stages[name], g["stage_stats"][i]
        # Some of the original's stages are token lists where ours are maps, (n, H, W, C): the same values in C order.
        assert stage.size == np.prod(g["stage_shapes"][i][g["stage_shapes"][i] > 0]), name
        within("stage", flat_samples(stage, 32), g["stage_values"][i], scale=largest)
        within("stage", statistics(stage), [mean, std, largest], scale=largest)


def test_image_embeddings_agree(encoded: Encoded) -> None:
    (embedding,), g = encoded.embeddings, encoded.golden
    features = embedding.numpy()
    within("features", features[0, ::7, ::5, ::5], g["features_sub"])
    within("features", flat_samples(features, 512), g["features_values"])
    within("features", statistics(features), g["features_stats"])
    if "features" in g:
        within("features", features, g["features"])
    if "features_half" in g:
        within("features_half", features, g["features_half"])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_embeddings_agree(encoded: Encoded, prompt: str) -> None:
    coords, labels, mask_input, has_mask_input = encoded.prompt_tensors(prompt)
    with torch.inference_mode():
        sparse, _, dense = encoded.model.prompt_encoder(coords, labels, mask_input, has_mask_input)
    want = encoded.golden[f"{prompt}/sparse"]
    if want.shape[1]:
        within("prompt", sparse.numpy(), want)
    else:  # no token in the original: ours is an empty slot
        assert labels.tolist() == [[LABEL_EMPTY]]
    if f"{prompt}/dense_sub" in encoded.golden:
        within("prompt", dense.numpy()[0, ::7, ::5, ::5], encoded.golden[f"{prompt}/dense_sub"])
    else:
        no_mask = encoded.model.prompt_encoder.no_mask_embed.weight.detach()[:, :, None, None]
        assert torch.equal(dense, no_mask.expand_as(dense))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_masks_and_their_predicted_iou_agree(encoded: Encoded, prompt: str) -> None:
    g = {key.removeprefix(f"{prompt}/"): x for key, x in encoded.golden.items() if key.startswith(f"{prompt}/")}
    original_size, input_size = size_of(encoded.golden["original_size"]), size_of(encoded.golden["input_size"])
    with torch.inference_mode():
        low_res, iou = encoded.model.decode(encoded.embeddings, *encoded.prompt_tensors(prompt))
        logits = encoded.model.postprocess_masks(low_res, input_size, original_size)[0].numpy()
    masks = logits > encoded.model.mask_threshold
    four = low_res[0].numpy()
    step = 1 if g["low_res"].shape == four.shape else 7
    within("low_res", four[:, ::step, ::step], g["low_res"])
    within("low_res", [statistics(x) for x in four], g["low_res_stats"])
    within("iou", iou[0].numpy(), g["iou"])
    within("logits", logits[:, ::29, ::31], g["logits_sub"])
    within_pixels(masks, g["masks"])
    within("pixels", masks.sum((1, 2)), g["areas"])


def test_decoder_agrees_inside(encoded: Encoded) -> None:
    decoder = encoded.model.mask_decoder
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda _module, _args, output: seen.__setitem__(name, output)

    watched: dict[str, nn.Module] = {"transformer": decoder.transformer, "upscaled": decoder.output_upscaling[-1]}
    watched |= {f"hyper{i}": mlp for i, mlp in enumerate(decoder.output_hypernetworks_mlps)}
    hooks = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    with torch.inference_mode():
        encoded.model.decode(encoded.embeddings, *encoded.prompt_tensors("point"))
    for hook in hooks:
        hook.remove()
    tokens, image = seen["transformer"]
    within("tokens_out", tokens.numpy(), encoded.golden["point/tokens_out"])
    within("image_out", image.numpy()[0, ::37, ::5], encoded.golden["point/image_out_sub"])
    within("upscaled", seen["upscaled"].numpy()[0, ::3, ::13, ::13], encoded.golden["point/upscaled_sub"])
    hyper = torch.stack([seen[f"hyper{i}"] for i in range(4)], dim=1)
    within("hyper", hyper.numpy(), encoded.golden["point/hyper"])


def test_position_map_agrees(encoded: Encoded) -> None:
    variant = encoded.model.spec.name
    within(
        "prompt",
        encoded.model.prompt_encoder.get_dense_pe().numpy()[0, ::7, ::5, ::5],
        cached_golden(variant)["dense_pe_sub"],
    )


@pytest.mark.parametrize(
    ("variant", "mode"),
    [
        ("vit_mini", "multi"),
        ("vit_mini", "single"),
        ("vit_t_mini", "multi"),
        ("vit_t_mini", "single"),
        ("vit_t", "multi"),
        pytest.param("vit_b", "multi", marks=slow),
    ],
)
def test_two_images_with_several_prompts_in_one_call_agree(variant: str, mode: str) -> None:
    model, g = cached_model(variant), cached_golden(variant)
    records = []
    for image in ("wide", "tall"):
        original_size, input_size = size_of(g[f"{image}/original_size"]), size_of(g[f"{image}/input_size"])
        scale = np.array([input_size[1] / original_size[1], input_size[0] / original_size[0]])
        coords, labels = inputs.batch_points(image)
        record: dict[str, Any] = {
            "image": golden_image(image, input_size)[1],
            "original_size": original_size,
            "point_coords": torch.from_numpy((coords * scale).astype(np.float32)),
            "point_labels": torch.from_numpy(labels),
        }
        if image == "tall":
            factors = torch.tensor([1.0, -1.0, 0.5, 0.0])[:, None, None, None]
            record["boxes"] = torch.from_numpy((inputs.batch_boxes(image) * np.tile(scale, 2)).astype(np.float32))
            record["mask_inputs"] = torch.from_numpy(inputs.mask_logits(model.spec.mask_size)) * factors
        records.append(record)
    for image, result in zip(("wide", "tall"), model(records, multimask_output=mode == "multi"), strict=True):
        prefix = f"forward/{mode}/{image}"
        within("low_res", result["low_res_logits"].numpy()[..., ::7, ::7], g[f"{prefix}/low_res"])
        within("iou", result["iou_predictions"].numpy(), g[f"{prefix}/iou"])
        within_pixels(result["masks"].numpy(), g[f"{prefix}/masks"])


def test_relative_positions_agree_at_equal_and_different_sizes() -> None:
    g = golden("utils")
    table = torch.from_numpy(g["relpos/table"])
    for i, (query_size, key_size) in enumerate(g["relpos/sizes"].tolist()):
        within("prompt", relative_positions(query_size, key_size, table).numpy(), g[f"relpos/out_{i}"])


def test_decomposed_relative_terms_agree() -> None:
    g = {key.removeprefix("decomposed/"): x for key, x in golden("utils").items() if key.startswith("decomposed/")}
    height, width = g["size"].tolist()
    query = torch.from_numpy(g["q"])
    rel_h = relative_positions(height, height, torch.from_numpy(g["rel_h"]))
    rel_w = relative_positions(width, width, torch.from_numpy(g["rel_w"]))
    rows, columns = relative_position_terms(query, rel_h, rel_w)
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(2)
    within("prompt", g["attn"] + bias.numpy(), g["out"])

    # The fused attention adds the same bias to scaled logits.
    key, value = torch.randn(2, 1, 12, 8), torch.randn(2, 1, 12, 8)
    got = relative_position_attention(query.unsqueeze(1), key, value, rel_h, rel_w)
    logits = query.unsqueeze(1) @ key.transpose(2, 3) / 8**0.5 + bias.unsqueeze(1)
    within("prompt", got.numpy(), (logits.softmax(-1) @ value).numpy())


def test_windows_agree_and_go_back() -> None:
    g = golden("utils")
    x, size = torch.from_numpy(g["window/input"]), int(g["window/size"])
    windows = window_partition(x, size)
    np.testing.assert_array_equal(windows.numpy(), g["window/windows"])
    assert torch.equal(window_unpartition(windows, (x.shape[1], x.shape[2])), x)


def test_channel_norm_agrees() -> None:
    g = golden("utils")
    norm = LayerNorm2d(6)
    norm.load_state_dict({"weight": torch.from_numpy(g["norm2d/weight"]), "bias": torch.from_numpy(g["norm2d/bias"])})
    within("prompt", norm(torch.from_numpy(g["norm2d/input"])).detach().numpy(), g["norm2d/out"])


@pytest.mark.parametrize("case", range(4))
def test_postprocessing_agrees(case: int) -> None:
    g = golden("utils")
    input_size, original_size = (size_of(x) for x in g[f"post/sizes_{case}"])
    model = build_model(golden_model_config("vit_mini"))
    logits = model.postprocess_masks(torch.from_numpy(g["post/low_res"]), input_size, original_size).numpy()
    step = int(g[f"post/stride_{case}"])
    within("logits", logits[..., ::step, ::step], g[f"post/logits_{case}"])
    within_pixels(logits > model.mask_threshold, g[f"post/mask_{case}"])


def test_padding_agrees() -> None:
    model = build_model(golden_model_config("vit_mini"))
    preprocessed = model.preprocess(golden_image("tall", (256, 144))[1]).numpy()
    within("prompt", preprocessed[:, ::9, ::9], golden("utils")["pad/preprocessed_sub"])
