"""The Core ML runtime and the interpreter of its files, with packages that were converted here."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sam_edge
from sam_edge.artifact import open_artifact, write_artifact
from sam_edge.contract import Embedding, PromptTensors
from sam_edge.coreml_check import MODEL_PATH, WEIGHTS_PATH, read_package
from sam_edge.errors import ArtifactError, ImageError, PromptError, RuntimeUnavailable
from sam_edge.golden_vectors import compare
from sam_edge.runtimes import with_coreml
from sam_edge.runtimes.mil_interpreter import Interpreter
from sam_edge.runtimes.with_coreml import CoreMLRuntime, CoreMLVerifier
from tests.model_inputs import random_clicks, random_image
from tests.small_artifact import SPEC, small_manifest
from tests.small_coreml import changed, encoder, small_coreml_artifact, small_coreml_files, whole_coreml_artifact

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_coreml_artifact(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def runtime(folder: Path) -> CoreMLVerifier:
    return CoreMLVerifier(open_artifact(folder))


def test_the_interpreter_computes_what_torch_does(runtime: CoreMLVerifier) -> None:
    embedding = runtime.encode(random_image(SPEC))
    with torch.no_grad():
        expected = encoder()(torch.from_numpy(random_image(SPEC)))
    for got, wanted in zip((embedding.image_embeddings, *embedding.high_res_features), expected, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch", "slots"), [(1, 1), (2, 3), (5, 7), (65, 2), (1, 16)])
def test_a_batch_of_prompts_gives_what_each_gives_alone(runtime: CoreMLVerifier, batch: int, slots: int) -> None:
    embedding, all_prompts = runtime.encode(random_image(SPEC)), random_clicks(SPEC, batch, slots)
    together = runtime.decode(embedding, all_prompts)
    assert together.low_res_masks.shape == (batch, 4, 16, 16) and together.iou_predictions.shape == (batch, 4)
    rows = (getattr(all_prompts, field.name)[-1:] for field in dataclasses.fields(all_prompts))
    alone = runtime.decode(embedding, PromptTensors(*rows))
    np.testing.assert_allclose(together.low_res_masks[-1:], alone.low_res_masks, rtol=0, atol=1e-5)


def test_more_points_than_the_file_takes_are_refused(runtime: CoreMLVerifier) -> None:
    with pytest.raises(PromptError, match="a prompt has 17 points, but this Core ML file takes 16 at most"):
        runtime.decode(runtime.encode(random_image(SPEC)), random_clicks(SPEC, 1, 17))


def test_arrays_that_are_not_contiguous_are_taken(runtime: CoreMLVerifier) -> None:
    flipped = random_image(SPEC)[:, :, :, ::-1]
    expected = runtime.encode(np.ascontiguousarray(flipped))
    np.testing.assert_array_equal(runtime.encode(flipped).image_embeddings, expected.image_embeddings)


def test_wrong_shapes_say_so(runtime: CoreMLVerifier) -> None:
    with pytest.raises(ImageError, match=r"image has shape \(1, 3, 32, 32\), expected \(1, 3, 64, 64\)"):
        runtime.encode(np.zeros((1, 3, 32, 32), np.float32))
    wrong = dataclasses.replace(random_clicks(SPEC, 2, 3), point_labels=np.zeros((2, 4), np.float32))
    with pytest.raises(PromptError, match="point_labels has shape"):
        runtime.decode(runtime.encode(random_image(SPEC)), wrong)
    with pytest.raises(PromptError, match="has 1 tensors, expected 3"):
        runtime.decode(Embedding(runtime.encode(random_image(SPEC)).image_embeddings), random_clicks(SPEC, 1, 1))


def test_loading_compares_the_golden_photos(folder: Path, tmp_path: Path) -> None:
    golden = open_artifact(folder).read_golden()
    assert compare(CoreMLVerifier(open_artifact(folder)), golden).mask_iou == 1
    bright = tuple(dataclasses.replace(photo, image=255 - photo.image) for photo in golden)
    with pytest.raises(ArtifactError, match="small computes other embeddings here than where it was exported"):
        CoreMLVerifier(small_coreml_artifact(tmp_path / "small", bright))


def test_an_artifact_for_another_runtime_is_refused(tmp_path: Path) -> None:
    artifact = small_coreml_artifact(tmp_path / "small")
    other = dataclasses.replace(artifact, manifest=dataclasses.replace(artifact.manifest, target="onnx"))
    with pytest.raises(ArtifactError, match=r"is for onnx .*expected coreml in float32 or float16 or int8"):
        CoreMLVerifier(other)


@pytest.mark.parametrize("path", [MODEL_PATH, WEIGHTS_PATH])
def test_a_changed_file_is_refused_before_it_is_read(tmp_path: Path, path: str) -> None:
    artifact = small_coreml_artifact(tmp_path / "small")
    file = artifact.directory / "decoder.mlpackage" / path
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="is not the file of its manifest"):
        CoreMLVerifier(artifact)


def test_a_program_with_a_form_that_is_not_known_gives_one_line(tmp_path: Path) -> None:
    def same_padding(spec: Any) -> None:
        for op in spec.mlProgram.functions["main"].block_specializations["CoreML7"].operations:
            texts = op.attributes["val"].immediateValue.tensor.strings.values if op.type == "const" else ()
            if list(texts) == ["valid"]:
                texts[0] = "same"

    files = changed(same_padding) | {"golden.npz": b""}
    artifact = write_artifact(tmp_path / "small", small_manifest(target="coreml"), files)
    with pytest.raises(
        ArtifactError, match=r"the encoder of .* cannot be computed: pad_type is 'same', expected"
    ) as caught:
        CoreMLVerifier(artifact, canary=False).encode(random_image(SPEC))
    assert "\n" not in str(caught.value)


def test_a_result_of_another_shape_than_the_file_says_gives_one_line() -> None:
    def larger(spec: Any) -> None:
        operations = spec.mlProgram.functions["main"].block_specializations["CoreML7"].operations
        pool = next(op for op in operations if op.type == "avg_pool")
        pool.outputs[0].type.tensorType.dimensions[3].constant.size += 1

    program = read_package(changed(larger), "encoder.mlpackage")
    with pytest.raises(
        ArtifactError, match=r"a result has shape \(1, .*\), expected \(1, .*\) as the file says"
    ) as caught:
        Interpreter(program).run({"image": random_image(SPEC)})
    assert "\n" not in str(caught.value)


def test_results_are_rounded_to_half_precision_where_the_file_says_so() -> None:
    def half(spec: Any) -> None:
        operations = spec.mlProgram.functions["main"].block_specializations["CoreML7"].operations
        next(op for op in operations if op.type == "avg_pool").outputs[0].type.tensorType.dataType = 10

    seen: dict[str, Any] = {}
    program = read_package(changed(half), "encoder.mlpackage")
    Interpreter(program).run({"image": random_image(SPEC)}, lambda name, array: seen.update({name: array}))
    (name,) = (name for name, kind in program.types.items() if kind.dtype == "float16")
    assert seen[name].dtype == np.float32
    np.testing.assert_array_equal(seen[name], seen[name].astype(np.float16).astype(np.float32))
    assert any((array != array.astype(np.float16)).any() for other, array in seen.items() if other != name)


def test_the_interpreter_needs_neither_torch_nor_coremltools(folder: Path) -> None:
    script = f"""
import sys
sys.modules["torch"] = sys.modules["coremltools"] = sys.modules["onnxruntime"] = None
from sam_edge.artifact import open_artifact
from sam_edge.golden_vectors import compare
from sam_edge.runtimes.with_coreml import CoreMLVerifier
artifact = open_artifact({str(folder)!r})
assert compare(CoreMLVerifier(artifact), artifact.read_golden()).mask_iou == 1
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_away_from_macos_serving_says_what_is_needed_and_checking_works(folder: Path) -> None:
    for call in (
        lambda: with_coreml.load(folder),
        lambda: sam_edge.load(folder),
        lambda: sam_edge.load(folder, "coreml"),
    ):
        with pytest.raises(RuntimeUnavailable, match=r"runs on macOS 14 or newer, and this is .*`sam-edge verify`"):
            call()
    checking = with_coreml.verifier(open_artifact(folder), 1)
    assert checking.name == "coreml-interpreter" and checking.spec == SPEC


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What can be tried of macOS elsewhere: in place of Core ML, the interpreter reads the files that it is given.

    Returns what it was made with: (folder, compute units).
    """
    coremltools = pytest.importorskip("coremltools")
    made: list[Any] = []

    class Model:
        def __init__(self, path: str, compute_units: Any) -> None:
            folder = Path(path)
            made.append((folder, compute_units))
            found = {p.relative_to(folder.parent).as_posix(): p for p in folder.rglob("*") if p.is_file()}
            self._interpreter = Interpreter(read_package({n: p.read_bytes() for n, p in found.items()}, folder.name))

        def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
            outputs = self._interpreter.run(feeds)
            # Core ML's order is its own.
            return dict(reversed(list(zip(self._interpreter.program.outputs, outputs, strict=True))))

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.5", ("", "", ""), "arm64"))
    monkeypatch.setattr(coremltools.models, "MLModel", Model)
    return made


def test_serving_gives_core_ml_the_checked_files_and_fixed_processors(folder: Path, macos: list[Any]) -> None:
    expected = CoreMLVerifier(open_artifact(folder))
    runtime = with_coreml.load(folder, 1, compute_units="CPU_AND_GPU")
    assert runtime.name == "coreml" and [units.name for _, units in macos] == ["CPU_AND_GPU"] * 2
    assert [path.name for path, _ in macos] == ["encoder.mlpackage", "decoder.mlpackage"]
    assert macos[0][0].parent != folder
    embedding = runtime.encode(random_image(SPEC))
    np.testing.assert_array_equal(embedding.image_embeddings, expected.encode(random_image(SPEC)).image_embeddings)
    got, wanted = (r.decode(embedding, random_clicks(SPEC, 9, 3)) for r in (runtime, expected))
    np.testing.assert_array_equal(got.low_res_masks, wanted.low_res_masks)
    np.testing.assert_array_equal(got.iou_predictions, wanted.iou_predictions)
    assert sam_edge.load(folder).name == "coreml" and macos[-1][1].name == "ALL"
    assert with_coreml.verifier(open_artifact(folder)).name == "coreml"


@pytest.mark.usefixtures("macos")
def test_what_core_ml_needs_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import coremltools

    with pytest.raises(RuntimeUnavailable, match="compute_units is 'GPU', expected one of: ALL, CPU_AND_NE"):
        with_coreml.load(folder, compute_units="GPU")

    def broken(path: str, compute_units: Any) -> Any:
        raise RuntimeError("Error compiling model\nwith many lines")

    monkeypatch.setattr(coremltools.models, "MLModel", broken)
    with pytest.raises(ArtifactError, match=r"Core ML cannot load the encoder of .* \(Error compiling model\)"):
        with_coreml.load(folder)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(RuntimeUnavailable, match="pip install coremltools"):
        CoreMLRuntime(open_artifact(folder))
    monkeypatch.setattr(platform, "mac_ver", lambda: ("13.6", ("", "", ""), "arm64"))
    with pytest.raises(RuntimeUnavailable, match=r"macOS is 13\.6, expected 14 or newer"):
        with_coreml.load(folder)


def test_files_are_in_folders_inside_the_artifact(folder: Path) -> None:
    names = set(open_artifact(folder).manifest.files)
    assert names == set(small_coreml_files()) | {"golden.npz"}
    assert all((folder / name).is_file() for name in names)
