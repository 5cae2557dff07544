"""The arrows of docs/architecture.md: who may import whom, and where heavy libraries may be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"sam_edge": "sam_edge", "kernels": "sam_edge.kernels", "export": "sam_edge.export"}
PACKAGES |= {"benchmarks": "sam_edge.benchmarks"}

# From left to right: a module imports only what stands in an earlier group, or in its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("contract", "files"),
    ("image", "boxes", "rle", "crops", "prompts", "masks", "windows", "transform"),
    ("manifest",),
    ("protobuf", "flatbuffer", "mil_values", "mil_program"),
    ("onnx_check", "openvino_check", "tflite_check", "coreml_check", "structures"),
    ("manifest_json", "golden_vectors", "artifact"),
    ("kernels", "model"),  # torch starts here: nothing to the left may import it
    ("runtimes",),
    ("predictor", "everything", "draw", "verify", "second_look"),
    ("evaluate",),
    ("quantize",),
    ("train", "export", "benchmarks"),
    ("web",),
    ("", "assets", "cli", "__main__"),
)
RANK = {name: rank for rank, group in enumerate(LAYERS) for name in group}
# Arrows that must not exist although the order would allow them.
FORBIDDEN = {("runtimes", "kernels"), ("evaluate", "model"), ("predictor", "model"), ("everything", "model")}
FORBIDDEN.add(("kernels", "model"))
HEAVY = {
    "onnxruntime": {
        "benchmarks/peers.py",
        "benchmarks/profile_onnxruntime.py",
        "sam_edge/runtimes/with_onnxruntime.py",
        "export/onnx_quantization.py",
    },
    "onnx": {"export/to_onnx.py", "export/onnx_quantization.py"},
    "onnxslim": {"export/to_onnx.py"},
    "openvino": {"sam_edge/runtimes/with_openvino.py", "export/to_openvino.py"},
    "nncf": {"export/to_openvino.py"},
    "ai_edge_litert": {"sam_edge/runtimes/with_tflite.py"},
    "litert_torch": {"export/to_tflite.py"},
    "ai_edge_quantizer": {"export/to_tflite.py"},
    "coremltools": {"sam_edge/runtimes/with_coreml.py", "export/to_coreml.py"},
    "accelerate": {"sam_edge/train/run.py"},
    "webdataset": {"sam_edge/train/stream.py"},
    "triton": {  # and `require`d or asked for its switch in two more, which define no kernel
        "kernels/triton_blocks.py",
        *(f"kernels/{op}/triton_kernel.py" for op in ("mask_statistics", "rel_pos_attention", "window_attention")),
        "kernels/compile_check.py",
        "kernels/launch.py",
    },
}
TORCH_FOLDERS = ("sam_edge/model/", "sam_edge/train/", "export/", "kernels/", "sam_edge/runtimes/with_torch.py")
TORCH_FOLDERS += ("benchmarks/kernels.py", "benchmarks/kernels_")
TORCH_FOLDERS += ("benchmarks/profile_torch.py", "benchmarks/peers", "benchmarks/mask_grid.py")


def sources() -> Iterator[tuple[Path, str]]:
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join([package, *parts]).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "require",
            "import_module",
        ):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def room(module: str) -> str | None:
    """The first name below sam_edge, None for a module of others."""
    parts = module.split(".")
    return (parts[1] if len(parts) > 1 else "") if parts[0] == "sam_edge" else None


def test_every_module_has_a_place_in_the_order() -> None:
    missing = {room(name) for _, name in sources()} - RANK.keys()
    assert not missing, f"add {missing} to LAYERS and to docs/architecture.md"


def test_imports_point_one_way() -> None:
    wrong = []
    for path, name in sources():
        here = room(name)
        assert here is not None
        for module in imports(path):
            there = room(module)
            if there is None or there == here or there == "" or there not in RANK:
                continue
            if RANK[there] > RANK[here] or (here, there) in FORBIDDEN:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    lazy = {"sam_edge/runtimes/with_torch.py"}  # the torch adapter wraps the model, as its name says
    assert not [line for line in wrong if line.split()[0] not in lazy]


@pytest.mark.parametrize("library", sorted(HEAVY))
def test_a_heavy_library_is_imported_in_one_file(library: str) -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path, _ in sources()
        if any(module == library or module.startswith(f"{library}.") for module in imports(path))
    }
    assert found <= HEAVY[library]


def test_torch_is_imported_only_where_models_live() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path, _ in sources()
        if any(module == "torch" or module.startswith("torch.") for module in imports(path))
    }
    assert {path for path in found if not path.startswith(TORCH_FOLDERS)} == set()


def test_the_whole_onnx_path_runs_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    """Predictor, everything mode, evaluation and command line, in an interpreter in which importing torch raises."""
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ImportError("torch is refused here")
sys.meta_path.insert(0, Refuse())
import numpy as np
import sam_edge
from sam_edge.image import read_photo
photo = read_photo({str(ROOT / "sam_edge" / "assets" / "photos" / "coffee.jpg")!r})
runtime = sam_edge.load("nano", runtime="onnx", threads=1)
predictor = sam_edge.SamPredictor(runtime)
predictor.set_image(photo)
masks, iou, low_res_masks = predictor.predict(np.array([[300, 200]]), np.array([1]))
assert masks.shape == (3, 400, 600) and masks.any()
assert sam_edge.SamAutomaticMaskGenerator(runtime, points_per_side=4, pred_iou_thresh=0.5).generate(photo)
from sam_edge.cli import main
from tests.sa1b import write_set
from pathlib import Path
folder = write_set(Path({str(tmp_path)!r}) / "set")
assert main(["eval", str(folder), "--limit", "1", "--kinds", "box", "--no-baselines", "--json"]) == 0
assert main(["models", "--json"]) == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
