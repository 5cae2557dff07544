"""OpenVINO files against the torch modules they come from: nano as released, and the family's small models."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sam_edge.artifact import write_artifact
from sam_edge.contract import (
    LABEL_EMPTY,
    LABEL_PADDING,
    Embedding,
    Float32,
    ModelSpec,
    PromptTensors,
    Runtime,
)
from sam_edge.errors import ExportError, RuntimeUnavailable
from sam_edge.export import to_openvino
from sam_edge.export.plan import Plan
from sam_edge.export.to_onnx import to_onnx_bytes
from sam_edge.export.to_openvino import PRECISIONS, export
from sam_edge.export.units import units
from sam_edge.golden_vectors import pack
from sam_edge.image import Photo, preprocess
from sam_edge.manifest import contract_tensors
from sam_edge.model.sam import Sam
from sam_edge.openvino_check import describe
from sam_edge.predictor import SamPredictor
from sam_edge.quantize import recipe as recipes
from sam_edge.quantize.recipe import Recipe
from sam_edge.runtimes.with_openvino import OpenVinoRuntime
from sam_edge.runtimes.with_torch import TorchRuntime
from tests import model_inputs
from tests.golden_models import golden_model
from tests.model_inputs import random_image, random_prompts
from tests.small_artifact import small_manifest
from tests.tiny_models import tiny_model

# Of the tensor's standard deviation. Float32 both ways, so that only the order of sums differs: measured 1.4e-5 on
# nano's widest output, 4e-6 on the others.
TOLERANCE = 1e-4
assert_close = partial(model_inputs.assert_close, tolerance=TOLERANCE)
assert_same = partial(model_inputs.assert_same, tolerance=TOLERANCE)
pytestmark = pytest.mark.usefixtures("one_thread")
FLOAT_UNITS = ("image_encoder.trunk.stem", "image_encoder.skip_4")


@pytest.fixture(scope="module")
def graphs(model: Sam) -> dict[str, bytes]:
    return to_onnx_bytes(model, weights="float32")  # 20 s


Files = dict[str, bytes]


@pytest.fixture(scope="module")
def exported(model: Sam, graphs: Files, photos: list[Photo]) -> Any:
    """(precision, float units) -> files, each made once."""
    made: dict[tuple[str, tuple[str, ...]], Files] = {}
    calibration = [preprocess(photo, model.spec)[0] for photo in photos]

    def get(precision: str, float_units: tuple[str, ...] = ()) -> Files:
        key = precision, float_units
        if key not in made:
            with traced_once(graphs):
                made[key] = export(model, Plan(Recipe("openvino", precision, float_units), calibration)).files
        return made[key]

    return get


@contextlib.contextmanager
def traced_once(graphs: Files) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_openvino, "to_onnx_bytes", lambda *_, **__: graphs)
        yield


def load(files: Files, spec: ModelSpec, folder: Path) -> OpenVinoRuntime:
    manifest = small_manifest(name=spec.name, spec=spec, target="openvino")
    return OpenVinoRuntime(write_artifact(folder, manifest, files | {"golden.npz": pack(())}), 1, canary=False)


@pytest.fixture(scope="module")
def runtimes(model: Sam, exported: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    loaded: dict[tuple[str, tuple[str, ...]], OpenVinoRuntime] = {}

    def get(precision: str, float_units: tuple[str, ...] = ()) -> OpenVinoRuntime:
        key = precision, float_units
        if key not in loaded:
            loaded[key] = load(exported(*key), model.spec, tmp_path_factory.mktemp("nano") / "artifact")
        return loaded[key]

    return get


@pytest.fixture(scope="module")
def reference(model: Sam) -> TorchRuntime:
    return TorchRuntime(model)


@pytest.fixture(scope="module")
def embeddings(reference: TorchRuntime, photos: list[Photo]) -> list[Embedding]:
    return [reference.encode(preprocess(photo, reference.spec)[0]) for photo in photos]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nano_computes_the_same_as_torch_at_any_number_of_prompts_and_points(
    runtimes: Any, reference: TorchRuntime, photos: list[Photo], precision: str
) -> None:
    image = preprocess(photos[0], reference.spec)[0]
    assert_same(runtimes(precision), reference, image, [(1, 1), (2, 3), (3, 2), (5, 7)])


@pytest.mark.slow  # two more traces of a decoder
@pytest.mark.parametrize("kind", ["vit", "tinyvit"])
def test_the_family_computes_the_same_as_torch(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)  # vit: a windowed block and a global one
    files = export(model, Plan(Recipe("openvino", "fp32"))).files
    assert_same(
        load(files, model.spec, tmp_path / "a"), TorchRuntime(model), random_image(model.spec), [(1, 1), (2, 3)]
    )


def every_kind_of_prompt(photo: Photo, low_res: Float32) -> dict[str, dict[str, Any]]:
    height, width = photo.shape[:2]
    click: dict[str, Any] = {"point_coords": np.array([[0.5 * width, 0.6 * height]]), "point_labels": np.array([1])}
    box = {"box": np.array([0.2 * width, 0.15 * height, 0.8 * width, 0.85 * height])}
    two = {
        "point_coords": np.array([[0.5 * width, 0.6 * height], [0.1 * width, 0.1 * height]]),
        "point_labels": np.array([1, 0]),
    }
    mask = {"mask_input": low_res}
    return {"point": click, "two points": two, "box": box, "box and point": box | click, "mask": click | mask}


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def mask_differences(got: Runtime, expected: Runtime, photos: list[Photo]) -> dict[str, list[float]]:
    """Kind of prompt -> IoU of the masks both draw on each photo, from the photo on."""
    ours, theirs = SamPredictor(got), SamPredictor(expected)
    ious: dict[str, list[float]] = {}
    for photo in photos:
        ours.set_image(photo)
        theirs.set_image(photo)
        _, _, low_res = theirs.predict(box=np.array([20.0, 20.0, 200.0, 200.0]), multimask_output=False)
        for kind, prompt in every_kind_of_prompt(photo, low_res).items():
            a, b = (p.predict(**prompt, multimask_output=False)[0][0].astype(bool) for p in (ours, theirs))
            assert b.any()
            ious.setdefault(kind, []).append(iou(a, b))
    return ious


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_masks_of_every_kind_of_prompt_are_torchs(
    runtimes: Any, reference: TorchRuntime, photos: list[Photo], precision: str
) -> None:
    ious = mask_differences(runtimes(precision), reference, photos)
    assert len(ious) == 5 and min(map(min, ious.values())) >= 0.999


def test_a_batch_gives_what_each_prompt_gives_alone(runtimes: Any, embeddings: list[Embedding]) -> None:
    runtime = runtimes("fp16")
    prompts = random_prompts(runtime.spec, 9, 3)
    together = runtime.decode(embeddings[0], prompts)
    for row in (0, 4, 8):
        alone = PromptTensors(*(getattr(prompts, x.name)[row : row + 1] for x in dataclasses.fields(prompts)))
        assert_close(together.low_res_masks[row : row + 1], runtime.decode(embeddings[0], alone).low_res_masks)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_empty_slots_change_nothing_and_a_padding_point_does(
    runtimes: Any, embeddings: list[Embedding], precision: str
) -> None:
    runtime = runtimes(precision)
    click = random_prompts(runtime.spec, 2, 2)
    more = [(0, 0), (0, 3), (0, 0)]

    def padded(label: float) -> PromptTensors:
        labels = np.pad(click.point_labels, more[:2], constant_values=label)
        return dataclasses.replace(click, point_coords=np.pad(click.point_coords, more), point_labels=labels)

    alone = runtime.decode(embeddings[0], click).low_res_masks
    empty, padding = (
        runtime.decode(embeddings[0], padded(label)).low_res_masks for label in (LABEL_EMPTY, LABEL_PADDING)
    )
    assert_close(empty, alone)
    assert np.abs(padding - alone).max() > 1e-2 * alone.std()


def test_a_mask_input_counts_only_where_it_is_said_to_be_there(runtimes: Any, embeddings: list[Embedding]) -> None:
    runtime = runtimes("fp16")
    prompts = random_prompts(runtime.spec, 2, 2)  # the second one has its mask
    other = dataclasses.replace(prompts, mask_input=-prompts.mask_input)
    first, second = (runtime.decode(embeddings[0], p).low_res_masks for p in (prompts, other))
    assert_close(second[0], first[0])
    assert np.abs(second[1] - first[1]).max() > 1e-2 * first.std()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_keep_the_contract_and_say_nothing_of_the_machine(exported: Any, model: Sam, precision: str) -> None:
    files = exported(precision)
    assert {name: (graph.inputs, graph.outputs) for name, graph in describe(files).items()} == contract_tensors(
        model.spec
    )
    assert sorted(files) == ["decoder.bin", "decoder.xml", "encoder.bin", "encoder.xml"]
    for name in ("encoder.xml", "decoder.xml"):
        assert not [word for word in (b"nncf", b"2026.", b"tmp", b"rt_info", b"node_", b"val_") if word in files[name]]


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_same_model_gives_the_same_bytes(
    exported: Any, model: Sam, graphs: Files, photos: list[Photo], precision: str
) -> None:
    calibration = [preprocess(photo, model.spec)[0] for photo in photos]
    with traced_once(graphs):
        again = export(model, Plan(Recipe("openvino", precision), calibration)).files
    hashes = [
        {name: hashlib.sha256(data).hexdigest() for name, data in x.items()} for x in (exported(precision), again)
    ]
    assert hashes[0] == hashes[1]


def test_smaller_precisions_give_smaller_files(exported: Any) -> None:
    sizes = {p: {name: len(data) for name, data in exported(p).items()} for p in PRECISIONS}
    encoder = {p: sizes[p]["encoder.bin"] for p in PRECISIONS}
    assert encoder["fp16"] < 0.51 * encoder["fp32"]
    assert max(encoder["int8"], encoder["int8-weights"]) < 0.28 * encoder["fp32"]
    decoder = {p: sizes[p]["decoder.bin"] for p in PRECISIONS}
    assert decoder["int8"] == decoder["int8-weights"] == decoder["fp16"] < 0.6 * decoder["fp32"]


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_int8_draws_nearly_the_masks_of_float(runtimes: Any, photos: list[Photo], precision: str) -> None:
    exact, rounded = runtimes("fp16"), runtimes(precision)
    ious = mask_differences(rounded, exact, photos)
    assert float(np.mean([value for values in ious.values() for value in values])) > 0.8
    exact, rounded = (r.encode(preprocess(photos[0], r.spec)[0]).image_embeddings for r in (exact, rounded))
    error = float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact))
    assert 1e-3 < error < 0.4  # it is int8, and it is the same encoder


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_float_units_stay_float_and_all_others_do_not(exported: Any, model: Sam, precision: str) -> None:
    """A quantized weight is stored as int8, converted and multiplied by its scale: one Multiply a unit."""
    all_units = units(model)
    full, mixed = (describe(exported(precision, kept))["encoder"].op_counts for kept in ((), FLOAT_UNITS))
    assert full["Multiply"] == len(all_units) == 62
    assert mixed["Multiply"] == len(all_units) - len(FLOAT_UNITS)
    stored = exported(precision, FLOAT_UNITS)["encoder.xml"].decode()
    stem = next(line for line in stored.splitlines() if 'shape="32, 3, 3, 3"' in line)
    assert 'element_type="f16"' in stem
    assert stored.count('element_type="i8"') == len(all_units) - len(FLOAT_UNITS)


@pytest.mark.slow  # another calibration
def test_with_all_units_in_float_the_encoder_is_float(
    runtimes: Any, exported: Any, model: Sam, reference: TorchRuntime, photos: list[Photo]
) -> None:
    every = tuple(units(model))
    assert "Multiply" not in describe(exported("int8-weights", every))["encoder"].op_counts
    image = preprocess(photos[1], reference.spec)[0]
    assert_same(runtimes("int8-weights", every), reference, image, [(1, 2)])


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_a_unit_that_the_encoder_does_not_have_is_an_error(
    model: Sam, graphs: Files, photos: list[Photo], precision: str
) -> None:
    plan = Plan(Recipe("openvino", precision, ("image_encoder.nowhere",)), [preprocess(photos[0], model.spec)[0]])
    with traced_once(graphs), pytest.raises(ExportError, match=r"image_encoder\.nowhere") as caught:
        export(model, plan)
    assert "\n" not in str(caught.value)


def test_int8_without_photos_and_other_precisions_are_errors(model: Sam) -> None:
    with pytest.raises(ExportError, match="int8 needs calibration photos and got none"):
        export(model, Plan(Recipe("openvino", "int8")))
    other = sorted(set(recipes.PRECISIONS) - set(PRECISIONS))
    assert other == ["int4-weights", "int8-dynamic"]
    for precision in other:
        with pytest.raises(ExportError, match=f"precision is '{precision}', expected for OpenVINO one of: fp32"):
            export(model, Plan(Recipe("openvino", precision)))


def test_a_photo_of_another_size_is_one_line(model: Sam, graphs: Files) -> None:
    plan = Plan(Recipe("openvino", "int8"), [np.zeros((1, 3, 64, 64), np.float32)])
    with traced_once(graphs), pytest.raises(ExportError, match="cannot be made an OpenVINO model in int8") as caught:
        export(model, plan)
    assert "\n" not in str(caught.value)


def test_without_the_libraries_the_message_says_how_to_install_them(
    model: Sam, graphs: Files, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(Recipe("openvino", "int8"), [preprocess(photos[0], model.spec)[0]])
    monkeypatch.setitem(sys.modules, "nncf", None)
    with traced_once(graphs), pytest.raises(RuntimeUnavailable, match=r"pip install 'sam-edge\[export-openvino\]'"):
        export(model, plan)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeUnavailable, match="openvino cannot be imported"):
        export(model, plan)


def test_it_prints_nothing_and_names_its_tools(
    exported: Any, model: Sam, graphs: Files, photos: list[Photo], capfd: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(Recipe("openvino", "int8-weights"), ())
    with traced_once(graphs):
        made = export(model, plan)
    assert capfd.readouterr() == ("", "")
    assert {"openvino", "nncf", "torch"} <= set(made.tools) and made.fixed_sizes == {}
    with traced_once(graphs):
        assert "nncf" not in export(model, Plan(Recipe("openvino", "fp32"))).tools


@pytest.mark.slow  # traces another decoder
def test_a_vision_transformer_becomes_int8(tmp_path: Path) -> None:
    model = tiny_model("vit")
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, 3, 64, 64)).astype(np.float32) for _ in range(4)]
    files = export(model, Plan(Recipe("openvino", "int8", ("image_encoder.blocks.1.mlp.lin1",)), images)).files
    assert files["encoder.xml"].count(b'element_type="i8"') >= len(units(model)) - 1
    runtime, reference = load(files, model.spec, tmp_path / "a"), TorchRuntime(model)
    got, expected = (r.encode(images[0]).image_embeddings for r in (runtime, reference))
    assert 1e-4 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.3


@pytest.mark.slow  # MobileSAM at 1024 pixels, random weights: minutes and 4 GB
def test_vit_t_at_1024_computes_the_same_as_torch(tmp_path: Path) -> None:
    model = golden_model("vit_t")
    files = export(model, Plan(Recipe("openvino", "fp32"))).files
    assert_same(load(files, model.spec, tmp_path / "a"), TorchRuntime(model), random_image(model.spec), [(1, 2)])
