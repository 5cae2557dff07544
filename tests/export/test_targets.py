"""What an export says of libraries that are not here, before it starts."""

from __future__ import annotations

import sys

import pytest

from sam_edge.errors import RuntimeUnavailable
from sam_edge.export.targets import find_target


@pytest.mark.parametrize(
    ("target", "precision", "library", "extra"),
    [
        ("onnx", "fp16", "onnxslim", "export"),
        ("openvino", "fp32", "openvino", "export-openvino"),
        ("openvino", "fp16", "onnxscript", "export-openvino"),
        ("openvino", "int8", "nncf", "export-openvino"),
        ("openvino", "int8-weights", "nncf", "export-openvino"),
        ("coreml", "fp32", "coremltools", "export-coreml"),
        ("tflite", "fp32", "ai_edge_quantizer", "export-tflite"),
    ],
)
def test_a_missing_library_is_named_with_the_line_that_installs_it(
    target: str, precision: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RuntimeUnavailable) as caught:
        find_target(target).check(precision)
    assert str(caught.value) == (
        f"exporting to {target} in {precision} needs {library}, which is not installed. "
        f"Install it with: pip install 'sam-edge[{extra}]'"
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_openvino_without_int8_needs_no_nncf(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    find_target("openvino").check(precision)
