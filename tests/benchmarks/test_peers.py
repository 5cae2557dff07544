from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from sam_edge.benchmarks import peers
from sam_edge.benchmarks.peers import Peer, main, measure_peer, table
from sam_edge.benchmarks.peers_models import ENCODERS, encoder_to_onnx, parameters


@pytest.mark.parametrize(("name", "backbone_millions"), [("resnet18", 11.2), ("repvit_m1", 4.7)])
def test_a_peer_has_its_papers_parameters_and_the_embedding_that_sams_decoder_takes(
    name: str, backbone_millions: float
) -> None:
    """Without classifier, batch norm folded: ResNet-18 11.2 M, RepViT-M1 5.1 M of which 0.4 M classify."""
    model = ENCODERS[name]()
    necks = [part for part in ("neck", "lateral", "smooth") if hasattr(model, part)]
    neck = sum(parameters(module) for part in necks if isinstance(module := getattr(model, part), nn.Module))
    assert (parameters(model) - neck) / 1e6 == pytest.approx(backbone_millions, rel=0.03)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 4, 4)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A peer's graph at 64 px, as `measure` writes it."""
    data, count = encoder_to_onnx("resnet18", 64)
    path = tmp_path_factory.mktemp("peer") / "peer.onnx"
    path.write_bytes(data)
    return {"path": str(path), "inputs": {"image": [1, 3, 64, 64]}, "parameters": count, "bytes": len(data)}


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_peers_graph_runs_through_a_runtime(runtime: str, graph: dict[str, Any]) -> None:
    job = {"runtime": runtime, "threads": 1, **graph}
    result = measure_peer(job | {"min_iterations": 2, "min_seconds": 0.0})
    assert len(result["samples_ms"]) == 2 and result["load_ms"] > 0


def test_a_record_of_a_real_run_becomes_the_table(
    graph: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (Peer("nano encoder (ours)", "nano", "encoder", 64), Peer("other", "resnet18", "encoder", 64))
    monkeypatch.setattr(peers, "PEERS", small)
    monkeypatch.setattr(peers, "_written", lambda chosen, _: dict.fromkeys(chosen, graph))  # writing nano takes long
    options = [
        "--threads",
        "1",
        "--rounds",
        "1",
        "--iterations",
        "1",
        "--runtime",
        "onnx",
        "-o",
        str(tmp_path / "p.jsonl"),
    ]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "p.jsonl").read_text())
    assert [row["status"] for row in record["rows"]] == ["measured", "measured"]
    assert record["rows"][1]["ratio_to_nano"] > 0
    assert "| other | 64 px |" in table(record) and "random weights" in table(record)
    record["rows"][1] |= {"status": "crashed"}
    assert "not measured yet" in table(record)
