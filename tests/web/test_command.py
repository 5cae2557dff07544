"""`sam-edge web` with models, hosts and ports that it cannot use: one clear line, nothing served, nothing written."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sam_edge.cli import main
from tests.artifacts.artifact_files import edit, put, set_at
from tests.small_artifact import whole_artifact

Damage = Callable[[Path], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return whole_artifact(tmp_path / "models")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that the command says."""
    assert main(["web", "--no-open", *map(str, arguments)]) == 1
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.splitlines()
    return line


def no_object(model: Path) -> None:
    (model / "manifest.json").write_text('{"files": 5}')


def other_weights(model: Path) -> None:
    data = bytearray((model / "encoder.onnx").read_bytes())
    data[-9] ^= 1
    (model / "encoder.onnx").write_bytes(data)


def no_graph(model: Path) -> None:
    put(model, "decoder.onnx", b"no graph")


def no_golden(model: Path) -> None:
    (model / "golden.npz").unlink()


def linked(model: Path) -> None:
    """To a file with the manifest's bytes, which could be any other tomorrow."""
    (model / "golden.npz").rename(model.parent / "golden.npz")
    (model / "golden.npz").symlink_to(model.parent / "golden.npz")


def for_phones(model: Path) -> None:
    edit(model, set_at("target", "tflite"))


def taking_photos(model: Path) -> None:
    edit(model, set_at("spec", "photo_input", True))
    photo = {"name": "photo", "dtype": "uint8", "shape": ["height", "width", 3]}
    edit(model, set_at("graphs", "encoder", "inputs", [photo]))


def of_one_size(model: Path) -> None:
    edit(model, set_at("fixed_sizes", {"prompts": [1], "points": [8]}))


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (no_object, "manifest.json cannot be used"),
        (other_weights, "encoder.onnx is not the file of its manifest"),
        (no_graph, "decoder.onnx"),
        (no_golden, "golden.npz cannot be read"),
        (linked, "golden.npz is a link"),
        (for_phones, "is for 'tflite'; expected ONNX"),
        (taking_photos, "an encoder that takes the photo itself; expected ONNX"),
        (of_one_size, "sizes fixed to {'prompts': [1], 'points': [8]}; expected ONNX"),
    ],
)
def test_a_model_that_the_page_would_refuse_is_neither_served_nor_published(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage, part: str
) -> None:
    damage(model)
    site = tmp_path / "site"
    assert part in refused(capsys, "--model", model, "--save-site", site)
    assert part in refused(capsys, "--model", model)
    assert not site.exists()


def test_a_published_model_is_what_its_manifest_lists(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "notes.txt").write_text("mine")
    assert main(["web", "--model", str(model), "--save-site", str(tmp_path / "site"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "site")}
    published = {path.name for path in (tmp_path / "site" / "model").iterdir()}
    assert published == {"manifest.json", "encoder.onnx", "decoder.onnx", "golden.npz"}


def test_a_port_that_is_taken_and_a_host_that_is_none_are_named(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(capsys, "--model", model, "--port", str(port))
    assert f"'127.0.0.1' port {port} (Address already in use)" in line
    assert "Choose another --port, or 0 for a free one" in line
    for host in ("no-such-host.invalid", "192.0.2.7", "a" * 70):
        line = refused(capsys, "--model", model, "--host", host)
        assert f"cannot listen on '{host}' port 0" in line and "another --host" in line and "free space" not in line
