"""Exported graphs against the torch modules they come from."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sam_edge.artifact import write_artifact
from sam_edge.contract import (
    LABEL_EMPTY,
    LABEL_PADDING,
    ModelSpec,
    PromptTensors,
)
from sam_edge.errors import ExportError
from sam_edge.export.graphs import MIN_ELEMENTS, exported_values
from sam_edge.export.onnx_quantization import weighted_nodes
from sam_edge.export.plan import Plan
from sam_edge.export.to_onnx import export, to_onnx_bytes
from sam_edge.export.units import matched, unit_weights, units
from sam_edge.golden_vectors import pack
from sam_edge.manifest import contract_tensors
from sam_edge.model.sam import Sam
from sam_edge.onnx_check import read_onnx_structure
from sam_edge.quantize.recipe import Recipe
from sam_edge.runtimes.with_onnxruntime import OnnxRuntime
from sam_edge.runtimes.with_torch import TorchRuntime
from tests import model_inputs
from tests.model_inputs import random_image, random_prompts
from tests.small_artifact import small_manifest
from tests.tiny_models import tiny_model

# Of the tensor's standard deviation. Float32 both ways: only the order of sums differs, by 1e-6 to 4e-6.
TOLERANCE = 3e-5
assert_close = partial(model_inputs.assert_close, tolerance=TOLERANCE)
assert_same = partial(model_inputs.assert_same, tolerance=TOLERANCE)
pytestmark = pytest.mark.usefixtures("one_thread")


def onnx_runtime(files: dict[str, bytes], spec: ModelSpec, folder: Path) -> OnnxRuntime:
    manifest = small_manifest(name=spec.name, spec=spec)
    return OnnxRuntime(write_artifact(folder, manifest, files | {"golden.npz": pack(())}), 1, canary=False)


def test_nano_computes_the_same_as_torch_at_any_number_of_prompts_and_points(
    nano: Sam, nano_files: dict[str, bytes], tmp_path: Path
) -> None:
    runtime = onnx_runtime(nano_files, nano.spec, tmp_path / "a")
    sizes = [(1, 1), (1, 2), (2, 3), (3, 2), (5, 7), (16, 2)]
    assert_same(runtime, TorchRuntime(exported_values(nano, "float16")), random_image(nano.spec), sizes)


@pytest.mark.slow  # two more traces of a decoder
@pytest.mark.parametrize("kind", ["vit", "tinyvit"])
def test_the_family_computes_the_same_as_torch(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    runtime = onnx_runtime(to_onnx_bytes(model, weights="float32"), model.spec, tmp_path / "a")
    assert_same(runtime, TorchRuntime(model), random_image(model.spec), [(1, 1), (2, 3), (3, 1)])


def test_empty_slots_change_nothing_and_a_padding_point_does(
    nano: Sam, nano_files: dict[str, bytes], tmp_path: Path
) -> None:
    runtime = onnx_runtime(nano_files, nano.spec, tmp_path / "a")
    embedding = runtime.encode(random_image(nano.spec))
    click = random_prompts(nano.spec, 2, 2)
    more = [(0, 0), (0, 3), (0, 0)]

    def padded(label: float) -> PromptTensors:
        labels = np.pad(click.point_labels, more[:2], constant_values=label)
        return dataclasses.replace(click, point_coords=np.pad(click.point_coords, more), point_labels=labels)

    alone = runtime.decode(embedding, click).low_res_masks
    with_empty, with_padding = (
        runtime.decode(embedding, padded(label)).low_res_masks for label in (LABEL_EMPTY, LABEL_PADDING)
    )
    assert_close(with_empty, alone)
    assert np.abs(with_padding - alone).max() > 1e-2 * alone.std()


def test_a_mask_input_counts_only_where_it_is_said_to_be_there(
    nano: Sam, nano_files: dict[str, bytes], tmp_path: Path
) -> None:
    runtime = onnx_runtime(nano_files, nano.spec, tmp_path / "a")
    embedding = runtime.encode(random_image(nano.spec))
    prompts = random_prompts(nano.spec, 2, 2)  # the second one has its mask
    other = dataclasses.replace(prompts, mask_input=-prompts.mask_input)
    first, second = (runtime.decode(embedding, p).low_res_masks for p in (prompts, other))
    assert_close(second[0], first[0])
    assert np.abs(second[1] - first[1]).max() > 1e-2 * first.std()


def test_files_keep_the_contract_and_pass_the_loaders_check(nano: Sam, nano_files: dict[str, bytes]) -> None:
    for (inputs, outputs), (name, data) in zip(contract_tensors(nano.spec).values(), nano_files.items(), strict=True):
        found = read_onnx_structure(data, name)
        assert (tuple(found.inputs), tuple(found.outputs)) == (inputs, outputs)
        assert found.opset == 20


@pytest.mark.slow  # another trace
def test_the_same_model_gives_the_same_bytes(nano: Sam, nano_files: dict[str, bytes]) -> None:
    assert to_onnx_bytes(nano) == nano_files


def test_nothing_of_the_machine_is_in_a_file(nano_files: dict[str, bytes]) -> None:
    for data in nano_files.values():
        model = onnx.load_from_string(data)
        graph = model.graph
        items = (*graph.node, *graph.initializer, *graph.input, *graph.output, graph, model)
        assert not any(item.doc_string or item.metadata_props for item in items)
        assert not graph.value_info and model.producer_name == "sam_edge"
        for initializer in graph.initializer:  # its bytes may say anything by chance
            initializer.ClearField("raw_data")
        assert not [word for word in (".py", "/", "torch") if word in str(model)]


def test_large_weights_are_stored_as_float16_and_computed_in_float32(nano: Sam, nano_files: dict[str, bytes]) -> None:
    stored = {np.float16: 0, np.float32: 0}
    for data in nano_files.values():
        graph = onnx.load_from_string(data).graph
        casts = {node.input[0]: node.attribute[0].i for node in graph.node if node.op_type == "Cast"}
        for initializer in graph.initializer:
            values = onnx.numpy_helper.to_array(initializer)
            if values.dtype.type in stored:
                stored[values.dtype.type] += values.size
            if values.dtype == np.float16:
                assert values.size > MIN_ELEMENTS and casts[initializer.name] == onnx.TensorProto.FLOAT
    large = sum(x.numel() for x in nano.parameters() if x.numel() > MIN_ELEMENTS and x.ndim >= 2)
    assert stored[np.float16] >= 0.98 * large
    size, whole = sum(map(len, nano_files.values())), 4 * sum(x.numel() for x in nano.parameters())
    assert size < 0.75 * whole


def test_exported_values_are_the_models_rounded_and_leave_it_unchanged(nano: Sam) -> None:
    before = {name: tensor.clone() for name, tensor in nano.state_dict().items()}
    rounded = exported_values(nano, "float16")
    assert all(torch.equal(tensor, before[name]) for name, tensor in nano.state_dict().items())
    image = torch.from_numpy(random_image(nano.spec))
    with torch.inference_mode():
        expected, exact, half = (model.encode(image)[0] for model in (nano, exported_values(nano, "float32"), rounded))
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-5 * float(expected.std()))
    difference = float((half - expected).abs().max() / expected.std())
    assert 1e-5 < difference < 2e-2
    for name, parameter in rounded.named_parameters():
        if parameter.ndim >= 2 and parameter.numel() > MIN_ELEMENTS:
            assert torch.equal(parameter, parameter.half().float()), name


def test_weights_past_float16_are_refused_rather_than_stored_as_infinity() -> None:
    model = tiny_model("vit")
    with torch.no_grad():
        model.mask_decoder.transformer.layers[0].mlp.lin1.weight[0, 0] = 1e6
    with pytest.raises(ExportError, match=r"mlp\.lin1\.weight has weights past float16's 65504"):
        exported_values(model, "float16")


def test_an_opset_that_the_exporter_does_not_make_is_refused(nano: Sam) -> None:
    with pytest.raises(ExportError, match="opset is 17, expected 18 to 22"):
        to_onnx_bytes(nano, opset=17)


def plan(nano: Sam, precision: str, *float_units: str) -> Plan:
    rng = np.random.default_rng(1)
    images = [rng.standard_normal((1, 3, 64, 64)).astype(np.float32) for _ in range(4)]
    return Plan(Recipe("onnx", precision, float_units), images)


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int8-weights"])
def test_quantized_graphs_load_and_compute_nearly_the_same(nano: Sam, precision: str, tmp_path: Path) -> None:
    files = export(nano, plan(nano, precision)).files
    runtime = onnx_runtime(files, nano.spec, tmp_path / "out")
    image, prompts = random_image(nano.spec), random_prompts(nano.spec, 3, 4)
    expected = TorchRuntime(nano)
    ours, theirs = runtime.encode(image), expected.encode(image)
    error = ours.image_embeddings - theirs.image_embeddings
    assert 0 <= np.abs(error).mean() < 0.2 * theirs.image_embeddings.std()
    assert runtime.decode(ours, prompts).low_res_masks.shape == (3, 4, 16, 16)
    if precision != "int8-dynamic":  # which leaves convolutions alone
        assert np.abs(error).max() > 0
    assert len(files["encoder.onnx"]) + len(files["decoder.onnx"]) < sum(map(len, to_onnx_float(nano)))


def to_onnx_float(nano: Sam) -> list[bytes]:
    return list(to_onnx_bytes(nano, weights="float32").values())


def test_a_unit_of_the_recipe_stays_float_and_an_unknown_one_is_refused(nano: Sam) -> None:
    def weights_in_int8(*float_units: str) -> int:
        graph = onnx.load_from_string(export(nano, plan(nano, "int8", *float_units)).files["encoder.onnx"])
        stored = {t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4}
        return len(stored)

    kept = ("image_encoder.trunk.stem", "image_encoder.neck")
    assert weights_in_int8(*kept) == weights_in_int8() - len(kept)
    with pytest.raises(
        ExportError, match=r"the recipe keeps 'image_encoder\.nose' in float, but the encoder has no such"
    ):
        weights_in_int8("image_encoder.nose")


def test_int8_without_photos_is_refused(nano: Sam) -> None:
    with pytest.raises(ExportError, match="int8 needs photos to calibrate on and got none"):
        export(nano, Plan(Recipe("onnx", "int8")))


@pytest.mark.parametrize("kind", ["nano", "vit", "tinyvit"])
def test_every_unit_is_found_in_the_exported_graph_by_its_weights(
    kind: str, nano: Sam, nano_files: dict[str, bytes]
) -> None:
    model = nano if kind == "nano" else tiny_model(kind)
    encoder = (nano_files if kind == "nano" else to_onnx_bytes(model))["encoder.onnx"]
    graph = onnx.load_from_string(encoder)
    weights = unit_weights(model)
    found = matched(weights, weighted_nodes(graph))
    assert len({id(node) for node in found.values()}) == len(weights) == len(units(model))
    removed = [pair for pair in weighted_nodes(graph) if pair[0] is not found[units(model)[3]]]
    with pytest.raises(ExportError, match="has no operator in the exported graph"):
        matched(weights, removed)
