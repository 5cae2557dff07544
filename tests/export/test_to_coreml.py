"""Core ML packages against the torch modules they come from: nano as released, and the family's small models."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam_edge.artifact import write_artifact
from sam_edge.contract import (
    LABEL_EMPTY,
    LABEL_PADDING,
    Embedding,
    Float32,
    ModelSpec,
    PromptTensors,
)
from sam_edge.coreml_check import describe, read_package
from sam_edge.errors import ExportError, RuntimeUnavailable
from sam_edge.export import to_coreml
from sam_edge.export.graphs import exported_values
from sam_edge.export.plan import Plan
from sam_edge.export.to_coreml import COMPUTES, PRECISIONS, export
from sam_edge.export.units import units
from sam_edge.golden_vectors import pack
from sam_edge.image import preprocess, read_photo
from sam_edge.manifest import contract_tensors
from sam_edge.model.checkpoints import NANO_WEIGHTS, load_checkpoint
from sam_edge.model.sam import Sam
from sam_edge.prompts import build_prompts
from sam_edge.quantize import recipe as recipes
from sam_edge.quantize.recipe import Recipe
from sam_edge.runtimes import ASSETS
from sam_edge.runtimes.with_coreml import CoreMLVerifier
from sam_edge.runtimes.with_torch import TorchRuntime
from tests import model_inputs
from tests.golden_models import golden_model
from tests.model_inputs import random_image, random_prompts
from tests.small_artifact import small_manifest
from tests.small_coreml import encoder, encoder_model
from tests.tiny_models import tiny_model

Files = dict[str, bytes]
Exports = Callable[..., Files]

PHOTOS = [read_photo(path) for path in sorted((ASSETS / "photos").glob("*.jpg"))[:2]]
# Of the tensor's standard deviation. Float32 both ways, so that only the order of sums differs: measured 2e-5.
TOLERANCE = 1e-4
assert_close = partial(model_inputs.assert_close, tolerance=TOLERANCE)
pytestmark = pytest.mark.usefixtures("one_thread")
FLOAT_UNITS = ("image_encoder.trunk.stem", "image_encoder.skip_4")


@pytest.fixture(scope="module")
def model() -> Sam:
    return load_checkpoint(NANO_WEIGHTS)


@pytest.fixture(scope="module")
def reference(model: Sam) -> TorchRuntime:
    return TorchRuntime(exported_values(model, "float32"))


@pytest.fixture(scope="module")
def exported(model: Sam) -> Exports:
    """(precision, float units) -> files, each made once; what is compressed comes from one conversion."""
    made: dict[Any, Any] = {}
    calibration = [preprocess(photo, model.spec)[0] for photo in PHOTOS]

    def once(convert: Callable[..., Any]) -> Callable[..., Any]:
        def converted(model: Sam, half: bool) -> Any:
            if (convert, half) not in made:
                made[convert, half] = convert(model, half)
            return made[convert, half]

        return converted

    encoder, decoder = once(to_coreml._encoder), once(to_coreml._decoder)

    def get(precision: str, *float_units: str) -> Files:
        key = precision, float_units
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(to_coreml, "_encoder", encoder)
                patch.setattr(to_coreml, "_decoder", decoder)
                made[key] = export(model, Plan(Recipe("coreml", precision, float_units), calibration)).files
        files: Files = made[key]
        return files

    return get


def load(files: Files, spec: ModelSpec, folder: Path) -> CoreMLVerifier:
    manifest = small_manifest(name=spec.name, spec=spec, target="coreml")
    return CoreMLVerifier(write_artifact(folder, manifest, files | {"golden.npz": pack(())}), canary=False)


@pytest.fixture(scope="module")
def fp32(exported: Exports, model: Sam, tmp_path_factory: pytest.TempPathFactory) -> CoreMLVerifier:
    return load(exported("fp32"), model.spec, tmp_path_factory.mktemp("fp32") / "a")


@pytest.fixture(scope="module")
def embedding(reference: TorchRuntime) -> Embedding:
    return reference.encode(preprocess(PHOTOS[0], reference.spec)[0])


def arrays(embedding: Embedding) -> tuple[Float32, ...]:
    return embedding.image_embeddings, *embedding.high_res_features


def relative_error(got: Float32, expected: Float32) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def photo_prompts(spec: ModelSpec, photo: Any, mask_input: Any = None) -> dict[str, PromptTensors]:
    """Four prompts of each kind a user has."""
    height, width = photo.shape[:2]
    clicks = np.array([[[x * width, y * height]] for x in (0.3, 0.6) for y in (0.4, 0.7)])
    boxes = np.array([[0.2, 0.2, 0.8, 0.8], [0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9], [0.3, 0.3, 0.6, 0.7]])
    boxes *= [width, height, width, height]
    labels = np.ones((4, 1))
    masks = np.random.default_rng(3).normal(0, 5, (4, 1, spec.mask_size, spec.mask_size)).astype(np.float32)
    return {
        "point": build_prompts(spec, (height, width), point_coords=clicks, point_labels=labels),
        "box": build_prompts(spec, (height, width), boxes=boxes),
        "box and point": build_prompts(spec, (height, width), point_coords=clicks, point_labels=labels, boxes=boxes),
        "mask": build_prompts(spec, (height, width), point_coords=clicks, point_labels=labels, mask_input=masks),
    }


def mean_mask_iou(runtime: CoreMLVerifier, reference: TorchRuntime) -> float:
    ious = []
    for photo in PHOTOS:
        image, _ = preprocess(photo, reference.spec)
        ours, theirs = runtime.encode(image), reference.encode(image)
        for kind in ("point", "box"):
            prompts = photo_prompts(reference.spec, photo)[kind]
            got, wanted = (
                r.decode(e, prompts).low_res_masks[:, 0] > 0 for r, e in ((runtime, ours), (reference, theirs))
            )
            assert wanted.sum((1, 2)).min() > 10  # empty masks say nothing
            ious.append((got & wanted).sum((1, 2)) / (got | wanted).sum((1, 2)))
    return float(np.mean(ious))


# fp32


def test_nano_computes_the_same_as_torch_on_a_photo_with_every_kind_of_prompt(
    fp32: CoreMLVerifier, reference: TorchRuntime, embedding: Embedding
) -> None:
    got = fp32.encode(preprocess(PHOTOS[0], fp32.spec)[0])
    for ours, theirs in zip(arrays(got), arrays(embedding), strict=True):
        assert_close(ours, theirs)
    for prompts in photo_prompts(fp32.spec, PHOTOS[0]).values():
        ours, theirs = fp32.decode(got, prompts), reference.decode(embedding, prompts)
        assert_close(ours.low_res_masks, theirs.low_res_masks)
        assert_close(ours.iou_predictions, theirs.iou_predictions)


@pytest.mark.parametrize(("batch", "slots"), [(1, 1), (1, 7), (3, 2), (6, 3)])
def test_any_number_of_prompts_and_points_and_a_batch_is_what_each_gives_alone(
    fp32: CoreMLVerifier, reference: TorchRuntime, embedding: Embedding, batch: int, slots: int
) -> None:
    prompts = random_prompts(fp32.spec, batch, slots)
    together, expected = fp32.decode(embedding, prompts), reference.decode(embedding, prompts)
    assert_close(together.low_res_masks, expected.low_res_masks)
    assert_close(together.iou_predictions, expected.iou_predictions)
    last = PromptTensors(*(getattr(prompts, field.name)[-1:] for field in dataclasses.fields(prompts)))
    assert_close(together.low_res_masks[-1:], fp32.decode(embedding, last).low_res_masks)


def test_empty_slots_change_nothing_and_a_padding_point_does(fp32: CoreMLVerifier, embedding: Embedding) -> None:
    click = photo_prompts(fp32.spec, PHOTOS[0])["point"]
    more = [(0, 0), (0, 3), (0, 0)]

    def padded(label: float) -> PromptTensors:
        labels = np.pad(click.point_labels, more[:2], constant_values=label)
        return dataclasses.replace(click, point_coords=np.pad(click.point_coords, more), point_labels=labels)

    alone = fp32.decode(embedding, click).low_res_masks
    with_empty, with_padding = (fp32.decode(embedding, padded(x)).low_res_masks for x in (LABEL_EMPTY, LABEL_PADDING))
    assert_close(with_empty, alone)
    assert np.abs(with_padding - alone).max() > 1e-2 * alone.std()


def test_a_mask_input_counts_only_where_it_is_said_to_be_there(fp32: CoreMLVerifier, embedding: Embedding) -> None:
    prompts = random_prompts(fp32.spec, 2, 2)  # the second one has its mask
    other = dataclasses.replace(prompts, mask_input=-prompts.mask_input)
    first, second = (fp32.decode(embedding, p).low_res_masks for p in (prompts, other))
    assert_close(second[0], first[0])
    assert np.abs(second[1] - first[1]).max() > 1e-2 * first.std()


@pytest.mark.slow  # two more conversions of a decoder
@pytest.mark.parametrize("kind", ["vit", "tinyvit"])
def test_the_family_computes_the_same_as_torch(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    runtime = load(export(model, Plan(Recipe("coreml", "fp32"))).files, model.spec, tmp_path / "a")
    expected = TorchRuntime(model)
    image = random_image(model.spec)
    embedding = expected.encode(image)
    assert_close(runtime.encode(image).image_embeddings, embedding.image_embeddings)
    for batch, slots in ((1, 1), (2, 3), (3, 1)):
        prompts = random_prompts(model.spec, batch, slots)
        assert_close(
            runtime.decode(embedding, prompts).low_res_masks, expected.decode(embedding, prompts).low_res_masks
        )


@pytest.mark.slow  # a whole MobileSAM
def test_a_published_size_computes_the_same_as_torch(tmp_path: Path) -> None:
    model = golden_model("vit_t")  # random weights, 1024 pixels
    runtime = load(export(model, Plan(Recipe("coreml", "fp32"))).files, model.spec, tmp_path / "a")
    expected = TorchRuntime(model)
    image = random_image(model.spec)
    embedding = expected.encode(image)
    assert_close(runtime.encode(image).image_embeddings, embedding.image_embeddings)
    prompts = random_prompts(model.spec, 2, 3)
    assert_close(runtime.decode(embedding, prompts).low_res_masks, expected.decode(embedding, prompts).low_res_masks)


# fp16


def test_half_precision_draws_the_same_masks_and_keeps_positions_in_float32(
    exported: Exports, model: Sam, reference: TorchRuntime, embedding: Embedding, tmp_path: Path
) -> None:
    files = exported("fp16")
    runtime = load(files, model.spec, tmp_path / "a")
    got = runtime.encode(preprocess(PHOTOS[0], model.spec)[0])
    for ours, theirs in zip(arrays(got), arrays(embedding), strict=True):
        assert 1e-4 < relative_error(ours, theirs) < 1e-2  # measured 1e-3 to 4e-3; less would not be half precision
    prompts = random_prompts(model.spec, 3, 2)
    ours, theirs = (r.decode(embedding, prompts).low_res_masks for r in (runtime, reference))
    assert 1e-5 < relative_error(ours, theirs) < 3e-3  # measured 4e-4; with coordinates in half precision 0.1 and more
    assert mean_mask_iou(runtime, reference) > 0.99  # measured 0.999
    kinds: dict[str, set[str]] = {}
    for package in ("encoder.mlpackage", "decoder.mlpackage"):
        for op in read_package(files, package).operations:
            kinds.setdefault(op.type, set()).update(kind.dtype for kind in op.outputs.values())
    assert {kinds[name] == {"float16"} for name in ("conv", "conv_transpose", "softmax", "layer_norm", "relu6")} == {
        True
    }
    assert {kinds[name] == {"float32"} for name in ("sin", "cos", "exp", "reduce_min", "sigmoid", "sqrt")} == {True}
    assert sum(map(len, files.values())) < 0.6 * sum(map(len, exported("fp32").values()))


# Fewer bits


def test_int8_draws_nearly_the_same_masks_and_units_of_the_recipe_stay_float(
    exported: Exports, model: Sam, reference: TorchRuntime, tmp_path: Path
) -> None:
    files = exported("int8", *FLOAT_UNITS)
    counts = describe(files)["encoder"].op_counts
    assert counts["conv"] == len(units(model))
    assert counts["constexpr_affine_dequantize"] == counts["conv"] - len(FLOAT_UNITS)
    assert counts["quantize"] > counts["conv"] and "quantize" not in describe(files)["decoder"].op_counts
    program = read_package(files, "encoder.mlpackage")
    types = {name: op.type for op in program.operations for name in op.outputs}
    products = [op for op in program.operations if op.type == "conv"]
    for unit, op in zip(units(model), products, strict=True):
        kinds = types[str(op.inputs["weight"][0])], types.get(str(op.inputs["x"][0]))
        if unit in FLOAT_UNITS:
            assert kinds[0] == "const"
        else:
            assert kinds == ("constexpr_affine_dequantize", "dequantize")
    stem = products[0].inputs["x"][0]
    assert types.get(str(stem)) != "dequantize"
    assert mean_mask_iou(load(files, model.spec, tmp_path / "a"), reference) > 0.9  # measured 0.97


def test_weights_alone_take_a_quarter_of_the_bytes(
    exported: Exports, model: Sam, reference: TorchRuntime, tmp_path: Path
) -> None:
    files = exported("int8-weights", *FLOAT_UNITS)
    small, large = (
        sum(len(data) for name, data in x.items() if name.startswith("encoder") and "weight" in name)
        for x in (files, exported("fp32"))
    )
    assert small < 0.27 * large
    counts = describe(files)["encoder"].op_counts
    assert counts["constexpr_affine_dequantize"] == len(units(model)) - len(FLOAT_UNITS)
    assert mean_mask_iou(load(files, model.spec, tmp_path / "a"), reference) > 0.9  # measured 0.97


@pytest.mark.slow  # k-means of every weight
def test_four_bits_a_weight_but_for_depthwise_filters_and_float_units(exported: Exports, model: Sam) -> None:
    files = exported("int4-weights", *FLOAT_UNITS)
    depthwise = sum("depthwise" in name for name in units(model))
    counts = describe(files)["encoder"].op_counts
    assert counts["constexpr_affine_dequantize"] >= depthwise
    small = counts["constexpr_affine_dequantize"] + counts["constexpr_lut_to_dense"]
    assert small == len(units(model)) - len(FLOAT_UNITS) and counts["constexpr_lut_to_dense"] > 20
    size = sum(len(data) for name, data in files.items() if name.startswith("encoder") and "weight" in name)
    assert size < 0.16 * sum(len(d) for n, d in exported("fp32").items() if n.startswith("encoder") and "weight" in n)


def test_ranges_are_those_of_all_calibration_photos() -> None:
    images = [np.random.default_rng(seed).normal(seed, 1, (1, 3, 64, 64)).astype(np.float32) for seed in range(3)]
    found = to_coreml._ranges(encoder_model(), images)
    with torch.no_grad():
        outputs = [encoder()(torch.from_numpy(image))[0] for image in images]
    got = found["image_embeddings"]
    expected = [min(float(x.min()) for x in outputs), max(float(x.max()) for x in outputs)]
    np.testing.assert_allclose([got["rmin"], got["rmax"]], expected, rtol=1e-4)
    assert found["image"] == {"rmin": min(x.min() for x in images), "rmax": max(x.max() for x in images)}


# Files and errors


def test_files_keep_the_contract(exported: Exports, model: Sam) -> None:
    for precision in ("fp32", "fp16"):
        graphs = describe(exported(precision))
        assert {name: (graph.inputs, graph.outputs) for name, graph in graphs.items()} == contract_tensors(model.spec)
    program = read_package(exported("fp32"), "decoder.mlpackage")
    assert program.largest == {"prompts": to_coreml.MAX_PROMPTS, "points": to_coreml.MAX_POINTS}


def test_tensors_have_at_most_four_dimensions(exported: Exports) -> None:
    for package in ("encoder.mlpackage", "decoder.mlpackage"):
        assert max(len(kind.shape) for kind in read_package(exported("fp16"), package).types.values()) == 4


def test_nothing_of_the_machine_is_in_a_file(exported: Exports) -> None:
    for name, data in exported("fp16").items():
        if not name.endswith("weight.bin"):  # its bytes may say anything by chance
            assert not [word for word in (b".py", b"/root", b"/home", b"/tmp", b"conversion_date") if word in data]


@pytest.mark.slow  # another conversion
def test_the_same_model_gives_the_same_bytes(model: Sam) -> None:
    made = []
    for _ in range(2):
        with to_coreml._quiet(), torch.no_grad():
            converted = to_coreml._encoder(exported_values(model, "float32"), half=True)
            made.append(to_coreml._package("encoder", converted))
    assert made[0] == made[1]


def test_precisions_are_those_of_recipes() -> None:
    assert set(PRECISIONS) <= set(recipes.PRECISIONS) and COMPUTES.keys() == set(PRECISIONS)


def test_what_cannot_be_exported_says_why(model: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="int8 needs calibration photos, got none"):
        export(model, Plan(Recipe("coreml", "int8")))
    with pytest.raises(ExportError, match=r"precision is 'int8-dynamic', expected for Core ML one of: fp32, fp16"):
        export(model, Plan(Recipe("coreml", "int8-dynamic")))
    with pytest.raises(
        ExportError, match=r"image_encoder\.nowhere of the recipe's float_units are not in nano's encoder"
    ):
        export(model, Plan(Recipe("coreml", "int8-weights", ("image_encoder.nowhere",))))
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'sam-edge\[export-coreml\]'"):
        export(model, Plan(Recipe("coreml", "fp32")))


def test_a_converter_that_fails_gives_one_line(model: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("Op X is not implemented\nmany lines")

    monkeypatch.setattr(to_coreml, "_convert", broken)
    with pytest.raises(
        ExportError, match=r"cannot be converted to Core ML in fp32 \(Op X is not implemented\)"
    ) as caught:
        export(model, Plan(Recipe("coreml", "fp32")))
    assert "\n" not in str(caught.value)
