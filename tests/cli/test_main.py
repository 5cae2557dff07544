"""What holds for every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sam_edge.cli import COMMANDS, main

HEAVY = ("torch", "scipy", "rich", "onnxruntime", "cv2", "numpy", "PIL")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_help_ends_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"sam-edge {command} " in text[text.index("Example") :]
    assert text.rstrip().splitlines()[-1].strip().startswith(("sam-edge", "torchrun"))


def test_help_lists_the_commands_and_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in text
    assert "Example: sam-edge segment" in text


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sam-edge 0.")


@pytest.mark.parametrize("arguments", [[], ["paint"], ["segment"], ["models", "extra"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "Usage: sam-edge" in printed.err + printed.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sam_edge.cli import main; main(['segment', '--help']); "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_segmenting_imports_neither_torch_nor_rich_nor_scipy(small_model: Path, photo: Path, tmp_path: Path) -> None:
    arguments = ["segment", str(photo), "--point", "9,9", "--model", str(small_model), "-o", str(tmp_path / "o.png")]
    code = (
        f"import sys; from sam_edge.cli import main; assert main({arguments!r}) == 0; "
        "print([m for m in ('torch', 'scipy', 'rich', 'onnx', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_models_are_listed_with_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for name in ("nano", "vit_b", "vit_l", "vit_h", "vit_t"):
        assert f"\n{name} " in text
    assert "sam_vit_h_4b8939.pth" in text
    assert main(["models", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert models["nano"]["on_disk"]
    assert models["nano"]["parameters"] <= 4_000_000
    assert models["nano"]["size_bytes"] <= 12_000_000
    assert models["nano"]["image_size_px"] == 512
    assert not models["vit_b"]["on_disk"]
