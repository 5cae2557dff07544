"""The OpenVINO runtime: loading, what it refuses to compute, and that it keeps to the precision of the artifact."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sam_edge
from sam_edge.artifact import open_artifact
from sam_edge.contract import LABEL_EMPTY, Embedding
from sam_edge.errors import ArtifactError, ImageError, PromptError, RuntimeUnavailable
from sam_edge.runtimes import with_onnxruntime, with_openvino
from sam_edge.runtimes.with_openvino import OpenVinoRuntime
from tests.model_inputs import random_clicks, random_image
from tests.small_artifact import SPEC, small_artifact, whole_artifact
from tests.small_openvino import small_openvino, small_openvino_files, whole_openvino


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact with golden photos."""
    return whole_openvino(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def runtime(folder: Path) -> OpenVinoRuntime:
    return with_openvino.load(folder, 1)


@pytest.mark.parametrize(("batch", "slots"), [(0, 2), (1, 1), (2, 3), (4, 1), (5, 7), (33, 2), (3, 40)])
def test_it_computes_what_onnxruntime_computes_for_any_number_of_prompts_and_points(
    runtime: OpenVinoRuntime, tmp_path: Path, batch: int, slots: int
) -> None:
    small_artifact(tmp_path / "onnx")
    reference = with_onnxruntime.load(tmp_path / "onnx", 1, canary=False)
    ours, theirs = runtime.encode(random_image(SPEC)), reference.encode(random_image(SPEC))
    np.testing.assert_allclose(ours.image_embeddings, theirs.image_embeddings, rtol=0, atol=1e-5)
    for got, expected in zip(ours.high_res_features, theirs.high_res_features, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    got, expected = (model.decode(theirs, random_clicks(SPEC, batch, slots)) for model in (runtime, reference))
    assert got.low_res_masks.shape == (batch, 4, 16, 16) and got.iou_predictions.shape == (batch, 4)
    np.testing.assert_allclose(got.low_res_masks, expected.low_res_masks, rtol=0, atol=1e-4)
    np.testing.assert_allclose(got.iou_predictions, expected.iou_predictions, rtol=0, atol=1e-5)


def test_a_signal_is_survived_after_models_that_were_loaded_side_by_side_are_gone(folder: Path) -> None:
    """Each with a Core of its own left the process with a freed stack for signals (see `openvino_core`)."""
    code = """
import signal, subprocess, sys
from sam_edge.runtimes import with_openvino
first, second = (with_openvino.load(sys.argv[1], 1) for _ in range(2))
del first
del second
signal.signal(signal.SIGCHLD, lambda *_: print("signal taken"))
subprocess.run(["true"], check=True)
"""
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "signal taken\n"), done.stderr


def test_a_result_stays_when_the_next_one_is_computed(runtime: OpenVinoRuntime) -> None:
    first = runtime.encode(random_image(SPEC))
    kept = first.image_embeddings.copy()
    assert not np.array_equal(runtime.encode(-random_image(SPEC)).image_embeddings, kept)
    np.testing.assert_array_equal(first.image_embeddings, kept)


def test_several_threads_may_share_a_runtime(runtime: OpenVinoRuntime) -> None:
    images = [random_image(SPEC) * scale for scale in range(1, 17)]
    expected = [runtime.encode(x).image_embeddings for x in images]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda x: runtime.encode(x).image_embeddings, images))
    np.testing.assert_array_equal(got, expected)


def test_arrays_that_are_not_contiguous_or_writable_are_taken(runtime: OpenVinoRuntime) -> None:
    flipped = random_image(SPEC)[:, :, :, ::-1]
    expected = runtime.encode(np.ascontiguousarray(flipped)).image_embeddings
    fixed = np.ascontiguousarray(flipped)
    fixed.flags.writeable = False
    for same in (flipped, fixed):
        np.testing.assert_array_equal(runtime.encode(same).image_embeddings, expected)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_threads_and_precision_are_set_in_the_library(folder: Path, threads: int) -> None:
    runtime = with_openvino.load(folder, threads)
    for network in (runtime._encoder, runtime._decoder):
        compiled = network._compiled
        # On a CPU with bfloat16 the library's own choice is not f32, and its own group size of activations is 32.
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 0
        assert int(compiled.get_property("NUM_STREAMS")) == 1
        assert threads == 0 or int(compiled.get_property("INFERENCE_NUM_THREADS")) == threads


def test_an_image_that_does_not_fit_says_so(runtime: OpenVinoRuntime) -> None:
    with pytest.raises(ImageError, match=r"image has shape \(1, 3, 32, 32\), expected \(1, 3, 64, 64\)"):
        runtime.encode(np.zeros((1, 3, 32, 32), np.float32))


def test_prompts_and_embeddings_that_do_not_fit_say_so(runtime: OpenVinoRuntime) -> None:
    embedding = runtime.encode(random_image(SPEC))
    wrong = dataclasses.replace(random_clicks(SPEC, 2, 3), point_labels=np.full((2, 4), LABEL_EMPTY, np.float32))
    with pytest.raises(PromptError, match="point_labels has shape"):
        runtime.decode(embedding, wrong)
    with pytest.raises(PromptError, match="has 1 tensors, expected 3"):
        runtime.decode(Embedding(embedding.image_embeddings), random_clicks(SPEC, 1, 1))


def test_loading_compares_the_golden_photos(folder: Path, tmp_path: Path) -> None:
    golden = open_artifact(folder).read_golden()
    small_openvino(tmp_path / "bright", tuple(dataclasses.replace(photo, image=255 - photo.image) for photo in golden))
    with pytest.raises(ArtifactError, match="small computes other embeddings here than where it was exported"):
        with_openvino.load(tmp_path / "bright", 1)


def test_an_artifact_of_another_target_is_refused(tmp_path: Path) -> None:
    folder = whole_artifact(tmp_path)
    with pytest.raises(ArtifactError, match=r"is for onnx.*, expected openvino"):
        with_openvino.load(folder, 1)


@pytest.mark.parametrize("name", ["encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"])
def test_a_changed_or_missing_file_is_refused_before_it_is_read(folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{name} is not the file of its manifest"):
        with_openvino.load(copy, 1)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        with_openvino.load(copy, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'type="AvgPool"', b'type="DoesNotExist"', "openvino .* cannot load the encoder of"),
        (b'strides="2, 2"', b'strides="0, 0"', "openvino .* cannot load the encoder of"),
        # The declared outputs stay the contract's; what the library infers does not.
        (b'strides="4, 4"', b'strides="2, 2"', "cannot load the encoder of|openvino sees"),
    ],
)
def test_a_graph_that_openvino_refuses_or_sees_otherwise_gives_one_line(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    text = small_openvino_files()["encoder.xml"]
    assert old in text
    small_openvino(tmp_path / "small", files={"encoder.xml": text.replace(old, new)})
    with pytest.raises(ArtifactError, match=message) as caught:
        with_openvino.load(tmp_path / "small", 1, canary=False)
    assert "\n" not in str(caught.value)


def test_without_the_library_the_message_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeUnavailable, match=r"Install it with: pip install 'sam-edge\[openvino\]'"):
        with_openvino.load(folder, 1)


def test_a_folder_loads_with_its_runtime(folder: Path) -> None:
    loaded = sam_edge.load(str(folder), threads=1)
    assert (loaded.name, loaded.spec) == ("openvino", SPEC)


def test_a_run_imports_no_torch_sends_nothing_home_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is refused here")
sys.meta_path.insert(0, Refuse())
import sam_edge
runtime = sam_edge.load({str(folder)!r}, threads=1)
assert runtime.name == "openvino"
assert not [name for name in sys.modules if name.startswith(("openvino_telemetry", "torch"))]
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "CI"} | {"HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(home.iterdir())


def test_telemetry_that_the_program_has_imported_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: Any = object()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
    with with_openvino.without_telemetry():
        assert sys.modules["openvino_telemetry"] is theirs
    assert sys.modules["openvino_telemetry"] is theirs
