"""TFLite files against the torch modules they come from: nano as released, and the family's small models."""

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
from sam_edge.contract import LABEL_BACKGROUND, LABEL_EMPTY, LABEL_FOREGROUND, Float32, PromptTensors, Runtime
from sam_edge.errors import ExportError, PromptError, RuntimeUnavailable
from sam_edge.export import to_tflite
from sam_edge.export.graphs import exported_values
from sam_edge.export.plan import Exported, Plan, Sizes
from sam_edge.export.to_tflite import PRECISIONS, export
from sam_edge.export.units import units
from sam_edge.golden_vectors import pack
from sam_edge.image import Photo, preprocess
from sam_edge.manifest import contract_tensors
from sam_edge.model.sam import Sam
from sam_edge.predictor import SamPredictor
from sam_edge.prompts import build_prompts
from sam_edge.quantize.recipe import Recipe
from sam_edge.runtimes.with_tflite import TFLiteRuntime
from sam_edge.runtimes.with_torch import TorchRuntime
from sam_edge.tflite_check import describe
from tests import model_inputs
from tests.golden_models import golden_model
from tests.small_artifact import small_manifest
from tests.small_tflite import read
from tests.tiny_models import tiny_model

ONE = Sizes((1,), (8,))  # each signature takes the converter many seconds
TOLERANCE = 1e-4  # of the tensor's standard deviation: float32 both ways, only the order of sums differs
assert_close = partial(model_inputs.assert_close, tolerance=TOLERANCE)
pytestmark = pytest.mark.usefixtures("one_thread")
FLOAT_UNITS = ("image_encoder.trunk.stem", "image_encoder.skip_4")


@pytest.fixture(scope="module")
def exported(model: Sam, photos: list[Photo]) -> Callable[..., Exported]:
    """(precision, float units) -> export, each made once."""
    made: dict[Any, Exported] = {}
    calibration = [preprocess(photo, model.spec)[0] for photo in photos]

    def get(precision: str, float_units: tuple[str, ...] = ()) -> Exported:
        key = precision, float_units
        if key not in made:
            made[key] = export(model, Plan(Recipe("tflite", *key), calibration, ONE))
        return made[key]

    return get


def load(result: Exported, model: Sam, folder: Path) -> TFLiteRuntime:
    manifest = small_manifest(name=model.spec.name, spec=model.spec, target="tflite", fixed_sizes=result.fixed_sizes)
    return TFLiteRuntime(write_artifact(folder, manifest, result.files | {"golden.npz": pack(())}), 1, canary=False)


@pytest.fixture(scope="module")
def tflite(model: Sam, exported: Any, tmp_path_factory: pytest.TempPathFactory) -> TFLiteRuntime:
    return load(exported("fp32"), model, tmp_path_factory.mktemp("fp32") / "a")


@pytest.fixture(scope="module")
def reference(model: Sam) -> Runtime:
    return TorchRuntime(model)


def assert_same(got: Runtime, expected: Runtime, photo: Photo, all_prompts: dict[str, PromptTensors]) -> None:
    tensor, _ = preprocess(photo, expected.spec)
    embedding, wanted = got.encode(tensor), expected.encode(tensor)
    assert_close(embedding.image_embeddings, wanted.image_embeddings)
    for ours, theirs in zip(embedding.high_res_features, wanted.high_res_features, strict=True):
        assert_close(ours, theirs)
    for prompts in all_prompts.values():
        ours, theirs = got.decode(embedding, prompts), expected.decode(wanted, prompts)
        assert_close(ours.low_res_masks, theirs.low_res_masks)
        np.testing.assert_allclose(ours.iou_predictions, theirs.iou_predictions, rtol=0, atol=1e-4)


def kinds_of_prompts(runtime: Runtime, photo: Photo) -> dict[str, PromptTensors]:
    """Every kind that the contract knows, from photo pixels."""
    spec, size = runtime.spec, photo.shape[:2]
    height, width = size
    points = [[[0.4 * width, 0.5 * height]], [[0.7 * width, 0.3 * height]]]
    box = [[0.2 * width, 0.15 * height, 0.8 * width, 0.85 * height]]
    click = build_prompts(spec, size, point_coords=points[:1], point_labels=[[LABEL_FOREGROUND]])
    logits = runtime.decode(runtime.encode(preprocess(photo, spec)[0]), click).low_res_masks[:, :1]
    several, labels = [[*points[0], *points[1], [5.0, 5.0]]], [[LABEL_FOREGROUND, LABEL_FOREGROUND, LABEL_BACKGROUND]]
    return {
        "click": click,
        "box": build_prompts(spec, size, boxes=box),
        "box and click": build_prompts(spec, size, point_coords=points[:1], point_labels=[[0]], boxes=box),
        "several clicks": build_prompts(spec, size, point_coords=several, point_labels=labels),
        "mask": dataclasses.replace(click, mask_input=logits, has_mask_input=np.ones(1, np.float32)),
        "nothing": build_prompts(spec, size),
        "three at once": build_prompts(spec, size, point_coords=points * 2, point_labels=[[1], [1], [0], [0]]),
    }


def test_nano_computes_what_torch_computes_for_every_kind_of_prompt(
    tflite: TFLiteRuntime, reference: Runtime, photos: list[Photo]
) -> None:
    assert_same(tflite, reference, photos[0], kinds_of_prompts(reference, photos[0]))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_fixed_shapes_have_no_operator_and_no_tensor_that_npus_lack(exported: Any, precision: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    files = exported(precision).files
    for name, graph in describe(files).items():
        operators = {operator.split("/")[0] for operator in graph.op_counts}
        assert not operators & {"ONE_HOT", "TILE", "GATHER", "GATHER_ND", "CUSTOM", "WHERE", "TOPK_V2"}, name
    for data in files.values():
        tensors = Interpreter(model_content=data).get_tensor_details()
        assert max(len(tensor["shape"]) for tensor in tensors) <= 4
        assert not {np.dtype(tensor["dtype"]).name for tensor in tensors} & {"int64", "float64"}


def test_a_batch_gives_what_each_prompt_gives_alone(tflite: TFLiteRuntime, photos: list[Photo]) -> None:
    embedding = tflite.encode(preprocess(photos[1], tflite.spec)[0])
    batch = kinds_of_prompts(tflite, photos[1])["three at once"]
    together = tflite.decode(embedding, batch)
    for index in range(len(batch.point_labels)):
        alone = tflite.decode(embedding, PromptTensors(*(x[index : index + 1] for x in vars(batch).values())))
        assert_close(together.low_res_masks[index : index + 1], alone.low_res_masks)


def test_empty_slots_change_nothing_and_a_padding_point_does(tflite: TFLiteRuntime, photos: list[Photo]) -> None:
    embedding = tflite.encode(preprocess(photos[0], tflite.spec)[0])
    click = kinds_of_prompts(tflite, photos[0])["click"]

    def padded(label: float) -> Float32:
        labels = np.pad(click.point_labels, ((0, 0), (0, 3)), constant_values=label)
        coords = np.pad(click.point_coords, ((0, 0), (0, 3), (0, 0)), constant_values=7)
        prompts = dataclasses.replace(click, point_coords=coords, point_labels=labels)
        return tflite.decode(embedding, prompts).low_res_masks

    alone = tflite.decode(embedding, click).low_res_masks
    assert_close(padded(LABEL_EMPTY), alone)
    assert np.abs(padded(LABEL_FOREGROUND) - alone).max() > 1e-2 * alone.std()


def test_a_mask_input_changes_the_masks(tflite: TFLiteRuntime, photos: list[Photo]) -> None:
    embedding = tflite.encode(preprocess(photos[0], tflite.spec)[0])
    prompts = kinds_of_prompts(tflite, photos[0])["mask"]
    first = tflite.decode(embedding, prompts).low_res_masks
    other = tflite.decode(embedding, dataclasses.replace(prompts, mask_input=-prompts.mask_input)).low_res_masks
    assert np.abs(other - first).max() > 1e-2 * first.std()


def test_a_prompt_of_too_many_points_is_refused(tflite: TFLiteRuntime, photos: list[Photo]) -> None:
    embedding = tflite.encode(preprocess(photos[0], tflite.spec)[0])
    prompts = build_prompts(tflite.spec, (100, 100), point_coords=np.full((1, 8, 2), 50), point_labels=np.ones((1, 8)))
    with pytest.raises(PromptError, match=r"a prompt has 9 points .* expected at most 8"):
        tflite.decode(embedding, prompts)


def test_files_keep_the_contract_and_say_their_sizes(exported: Any, model: Sam) -> None:
    result = exported("fp32")
    assert result.fixed_sizes == {"prompts": [1], "points": [8]}
    for name, graph in describe(result.files).items():
        assert (graph.inputs, graph.outputs) == contract_tensors(model.spec)[name]
        assert not [op for op in graph.op_counts if op.endswith("/int8")]
    assert {"litert-torch", "ai-edge-quantizer"} <= set(result.tools)


def test_names_inside_are_the_units_and_say_nothing_of_the_machine(exported: Any, model: Sam) -> None:
    for precision in ("fp32", "int8"):
        for data in exported(precision).files.values():
            file = read(data)
            texts = [t.name.decode() for graph in file.subgraphs for t in graph.tensors]
            texts += [file.description.decode(), *(entry.name.decode() for entry in file.metadata or [])]
            assert not [text for text in texts if "/" in text or ".py" in text or "torch" in text]
            assert all(buffer.offset == 0 for buffer in file.buffers)  # nothing behind the flatbuffer
    names = [t.name.decode() for t in read(exported("fp32").files["encoder.tflite"]).subgraphs[0].tensors]
    assert set(units(model)) <= set(names) and {f"{unit}.weight" for unit in units(model)} <= set(names)


def test_precisions_take_the_bytes_that_they_promise(exported: Any) -> None:
    size = {p: {name: len(data) for name, data in exported(p).files.items()} for p in PRECISIONS}
    encoder, decoder = ({p: files[f"{name}.tflite"] for p, files in size.items()} for name in ("encoder", "decoder"))
    assert encoder["fp16"] < 0.52 * encoder["fp32"] and decoder["fp16"] < 0.6 * decoder["fp32"]
    assert encoder["int8"] < 0.31 * encoder["fp32"] and encoder["int8-weights"] < 0.29 * encoder["fp32"]
    assert decoder["int8"] == decoder["int8-weights"] == decoder["fp16"] > decoder["int8-dynamic"]


# Mean IoU with torch's masks over clicks on the bundled photos; float16 rounds nothing here.
MIN_MEAN_IOU = {"fp16": 0.999, "int8": 0.8, "int8-dynamic": 0.9, "int8-weights": 0.8}


@pytest.mark.parametrize("precision", MIN_MEAN_IOU)
def test_quantized_nano_draws_nearly_the_same_masks(
    precision: str, exported: Any, model: Sam, reference: Runtime, photos: list[Photo], tmp_path: Path
) -> None:
    ours, theirs = SamPredictor(load(exported(precision), model, tmp_path / "a")), SamPredictor(reference)
    ious = []
    for photo in photos:
        ours.set_image(photo)
        theirs.set_image(photo)
        for at in np.array([[0.5, 0.5], [0.3, 0.4], [0.7, 0.6]]) * photo.shape[1::-1]:
            a, b = (p.predict(at[None], np.ones(1), multimask_output=False)[0][0] for p in (ours, theirs))
            ious.append((a & b).sum() / max((a | b).sum(), 1))
    assert np.mean(ious) > MIN_MEAN_IOU[precision]
    if precision == "fp16":
        assert_same(ours.runtime, reference, photos[0], {})


def test_float_units_stay_float_and_the_others_do_not(exported: Any) -> None:
    whole, mixed = (describe(exported("int8", names).files)["encoder"].op_counts for names in ((), FLOAT_UNITS))
    assert "CONV_2D" not in whole and whole["CONV_2D/int8"] == 47 and whole["DEPTHWISE_CONV_2D/int8"] == 15
    assert (mixed["CONV_2D"], mixed["CONV_2D/int8"]) == (2, 45)
    tensors = {
        t.name.decode(): t.type
        for t in read(exported("int8", FLOAT_UNITS).files["encoder.tflite"]).subgraphs[0].tensors
    }
    assert [tensors[name] for name in FLOAT_UNITS] == [0, 0]  # float32
    assert tensors["image_encoder.skip_8"] == 9  # int8


def test_the_decoder_stays_float_in_int8_and_has_int8_products_in_int8_dynamic(exported: Any) -> None:
    def weight_types(precision: str) -> set[int]:
        file = read(exported(precision).files["decoder.tflite"])
        graph, codes = file.subgraphs[0], file.operatorCodes
        products = [op for op in graph.operators if codes[op.opcodeIndex].builtinCode == 9]  # FULLY_CONNECTED
        return {graph.tensors[op.inputs[1]].type for op in products}

    assert weight_types("int8") == weight_types("fp16") == {0}  # float32, from a DEQUANTIZE of float16
    assert 9 in weight_types("int8-dynamic")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("tflite", "int4-weights"), "precision is int4-weights, expected one of: fp32, fp16, int8"),
        (Recipe("tflite", "int8"), "int8 needs photos for the ranges of its activations, got none"),
        (Recipe("tflite", "int8", ("image_encoder.trunk.stem.9",)), r"keeps 'image_encoder\.trunk\.stem\.9' in float"),
    ],
)
def test_recipes_that_cannot_be_followed_say_why(model: Sam, recipe: Recipe, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(model, Plan(recipe, sizes=ONE))


@pytest.mark.parametrize("sizes", [((), (8,)), ((2, 1), (8,)), ((1,), (8, 8)), ((0,), (8,)), ((1,), (5000,))])
def test_sizes_that_no_file_can_have_are_refused(sizes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ExportError, match="expected rising numbers of 1 to 4096"):
        Sizes(*sizes)


def test_more_signatures_than_a_file_may_have_are_refused_before_the_minutes_of_a_conversion() -> None:
    with pytest.raises(ExportError, match="9 sizes of prompts and 8 of points make 72 signatures, expected at most 64"):
        Sizes(tuple(range(1, 10)), tuple(range(1, 9)))


def test_an_export_is_silent_and_converts_a_model_once(
    exported: Any, model: Sam, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = exported("fp32")
    capfd.readouterr()
    assert export(model, Plan(Recipe("tflite", "fp32"), sizes=ONE)).files == first.files
    assert capfd.readouterr() == ("", "")

    def refuse(*_: Any) -> bytes:
        raise AssertionError("converted again")

    monkeypatch.setattr(to_tflite, "_convert", refuse)
    export(model, Plan(Recipe("tflite", "fp16"), sizes=ONE))
    other = exported_values(model, "float32")
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    with pytest.raises(AssertionError, match="converted again"):
        export(other, Plan(Recipe("tflite", "fp16"), sizes=ONE))


def test_without_the_converter_it_says_how_to_install_it(model: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'sam-edge\[export-tflite\]'"):
        export(model, Plan(Recipe("tflite", "fp32"), sizes=ONE))


def test_what_the_converter_cannot_do_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import litert_torch

    def fail(*_: Any) -> None:
        raise ValueError("no lowering\nfor this")

    monkeypatch.setattr(litert_torch, "signature", fail)
    with pytest.raises(ExportError, match=r"cannot convert this model \(no lowering\)") as caught:
        export(tiny_model("nano"), Plan(Recipe("tflite", "fp32"), sizes=ONE))
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # two more conversions
@pytest.mark.parametrize("kind", ["vit", "tinyvit"])
def test_the_family_computes_what_torch_computes(kind: str, photos: list[Photo], tmp_path: Path) -> None:
    model = tiny_model(kind)
    result = export(model, Plan(Recipe("tflite", "fp32"), sizes=Sizes((2,), (4,))))
    reference = TorchRuntime(model)
    assert_same(load(result, model, tmp_path / "a"), reference, photos[0], kinds_of_prompts(reference, photos[0]))
    calibration = [preprocess(photo, model.spec)[0] for photo in photos]
    names = units(model)
    quantized = export(model, Plan(Recipe("tflite", "int8", tuple(names[:2])), calibration, Sizes((2,), (4,))))
    counts = describe(quantized.files)["encoder"].op_counts
    weighted = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    assert sum(counts.get(op, 0) for op in weighted) == 2
    assert sum(counts.get(f"{op}/int8", 0) for op in weighted) == len(names) - 2
    embedding = load(quantized, model, tmp_path / "b").encode(calibration[0]).image_embeddings
    expected = reference.encode(calibration[0]).image_embeddings
    assert np.linalg.norm(embedding - expected) < 0.3 * np.linalg.norm(expected)


@pytest.mark.slow  # six signatures
def test_signatures_of_several_sizes_agree_with_torch_and_share_their_weights(
    photos: list[Photo], tmp_path: Path
) -> None:
    model = tiny_model("nano")
    several, one = (export(model, Plan(Recipe("tflite", "fp16"), sizes=s)) for s in (Sizes((1, 3), (3, 6)), ONE))
    reference = TorchRuntime(exported_values(model, "float16"))
    runtime = load(several, model, tmp_path / "a")
    tensor, _ = preprocess(photos[0], model.spec)
    embedding = reference.encode(tensor)
    for prompts in kinds_of_prompts(reference, photos[0]).values():
        got, expected = runtime.decode(embedding, prompts), reference.decode(embedding, prompts)
        assert_close(got.low_res_masks, expected.low_res_masks, tolerance=1e-3)

    def constants(result: Exported) -> int:
        file = read(result.files["decoder.tflite"])
        return sum(len(buffer.data) for buffer in file.buffers if buffer.data is not None)

    assert constants(several) < 1.1 * constants(one)


@pytest.mark.slow  # another two conversions
def test_the_same_model_gives_the_same_bytes(model: Sam, exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = exported("fp32").files
    monkeypatch.setattr(to_tflite, "_last", (None, {}))
    assert export(model, Plan(Recipe("tflite", "fp32"), sizes=ONE)).files == first


@pytest.mark.slow  # minutes, gigabytes
def test_mobilesam_at_its_full_size_computes_what_torch_computes(photos: list[Photo], tmp_path: Path) -> None:
    model = golden_model("vit_t")
    reference = TorchRuntime(model)
    result = export(model, Plan(Recipe("tflite", "fp32"), sizes=Sizes((1,), (4,))))
    click = {"click": kinds_of_prompts(reference, photos[0])["click"]}
    assert_same(load(result, model, tmp_path / "a"), reference, photos[0], click)
