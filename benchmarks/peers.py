"""`python -m sam_edge.benchmarks.peers`: `nano` beside what a user would pick instead, in one run on one machine.

Every encoder takes its own input side, as it is published: 1024 for SAM, MobileSAM, EdgeSAM and NanoSAM, 512 for nano.
Weights are random, since latency does not depend on them; so nothing is said of masks. Every row is a process of
its own in each round, the order reversed every second time, and ratios are to `nano` round by round.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from sam_edge.benchmarks.intervals import MIN_ROUNDS, median_interval
from sam_edge.benchmarks.machine import describe_machine
from sam_edge.benchmarks.process import Limits, run_job
from sam_edge.benchmarks.timing import repeat
from sam_edge.errors import RuntimeUnavailable, require
from sam_edge.evaluate.protocol import PROTOCOL_VERSION
from sam_edge.evaluate.provenance import source_commit

__all__ = ["PEERS", "SCHEMA", "Peer", "main", "measure_peer", "table"]

SCHEMA = "sam-edge/peers/1"
RUNTIMES = ("onnx", "openvino")
NO_WEIGHTS = "not measured: random weights"


@dataclass(frozen=True)
class Peer:
    """`model`: of the registry, or of `peers_models.ENCODERS`. `part`: "encoder" or "decoder" (one click)."""

    name: str
    model: str
    part: str
    side_px: int


PEERS = (
    Peer("nano encoder (ours)", "nano", "encoder", 512),
    Peer("NanoSAM's ResNet-18 encoder", "resnet18", "encoder", 1024),
    Peer("EdgeSAM's RepViT-M1 encoder", "repvit_m1", "encoder", 1024),
    Peer("MobileSAM's TinyViT encoder", "vit_t", "encoder", 1024),
    Peer("SAM's ViT-B encoder", "vit_b", "encoder", 1024),
    Peer("nano decoder, one click (ours)", "nano", "decoder", 512),
    Peer("SAM's decoder, one click", "vit_t", "decoder", 1024),  # MobileSAM, EdgeSAM and NanoSAM use the same
)


def measure_peer(job: dict[str, Any]) -> dict[str, Any]:
    """The worker's task: milliseconds of a graph's runs on noise, and of its load."""
    from time import perf_counter

    feeds = {
        name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in job["inputs"].items()
    }
    start = perf_counter()
    run = _LOADERS[job["runtime"]](job["path"], job["threads"])
    load_ms = 1e3 * (perf_counter() - start)
    samples = repeat(lambda _: run(feeds), job["min_iterations"], job["min_seconds"])
    return {"load_ms": load_ms, "samples_ms": samples}


def _load_onnx(path: str, threads: int) -> Any:
    ort = require("onnxruntime", extra="onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as runtimes/with_onnxruntime.py has it
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _load_openvino(path: str, threads: int) -> Any:
    from sam_edge.runtimes.with_openvino import OPTIONS, openvino_core

    core = openvino_core()
    options = OPTIONS | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    return lambda feeds: request.infer(feeds)


_LOADERS = {"onnx": _load_onnx, "openvino": _load_openvino}


def _written(peers: Sequence[Peer], folder: Path) -> dict[Peer, dict[str, Any]]:
    """Every peer's graph as a file, with the shapes of its inputs and its number of parameters."""
    from sam_edge.benchmarks.peers_models import ENCODERS, encoder_to_onnx, sam_to_onnx
    from sam_edge.manifest import contract_tensors
    from sam_edge.model.registry import build_model

    found: dict[Peer, dict[str, Any]] = {}
    for peer in peers:
        path = folder / f"{peer.model}-{peer.part}.onnx"
        click.echo(f"writing {peer.name}", err=True)
        if peer.model in ENCODERS:
            data, count = encoder_to_onnx(peer.model, peer.side_px)
            inputs = {"image": [1, 3, peer.side_px, peer.side_px]}
        else:
            files, counts = sam_to_onnx(peer.model, peer.side_px)
            data, count = files[f"{peer.part}.onnx"], counts[peer.part]
            sizes = {"prompts": 1, "points": 2}  # a click and SAM's padding point
            declared = contract_tensors(build_model(peer.model, peer.side_px).spec)[peer.part][0]
            inputs = {t.name: [sizes[n] if isinstance(n, str) else n for n in t.shape] for t in declared}
        path.write_bytes(data)
        found[peer] = {"path": str(path), "inputs": inputs, "parameters": count, "bytes": len(data)}
    return found


def measure(
    peers: Sequence[Peer], runtimes: Sequence[str], threads: int, rounds: int, min_iterations: int, min_seconds: float
) -> dict[str, Any]:
    """One record of all peers through all runtimes. Raises RuntimeUnavailable without torch."""
    rows: dict[tuple[Peer, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="sam_edge_peers_") as scratch:
        graphs = _written(peers, Path(scratch))
        order = [(peer, runtime) for peer in peers for runtime in runtimes]
        rows = {key: {"round_p50_ms": [], "samples_ms": []} for key in order}
        for number in range(rounds):
            for peer, runtime in order if number % 2 == 0 else reversed(order):
                job = {"task": "peer", "runtime": runtime, "threads": threads, **graphs[peer]}
                outcome = run_job(job | {"min_iterations": min_iterations, "min_seconds": min_seconds}, Limits())
                row = rows[peer, runtime]
                click.echo(f"round {number + 1}, {peer.name} {runtime}: {outcome.status} {outcome.reason}", err=True)
                if outcome.status != "measured":
                    row |= {"status": outcome.status, "reason": outcome.reason}
                    continue
                row["samples_ms"] += outcome.result["samples_ms"]
                row["round_p50_ms"].append(median(outcome.result["samples_ms"]))
    commit = source_commit()
    options = f"--threads {threads} --rounds {rounds} --iterations {min_iterations}"
    return {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m sam_edge.benchmarks peers {options}",
        **({"commit": commit} if commit else {}),
        "threads": threads,
        "rounds": rounds,
        "rows": [_row(peer, runtime, graphs[peer], rows, threads) for peer, runtime in order],
        "machine": describe_machine(),
    }


def _row(
    peer: Peer, runtime: str, graph: dict[str, Any], rows: dict[tuple[Peer, str], dict[str, Any]], threads: int
) -> dict[str, Any]:
    row = rows[peer, runtime]
    head = {**asdict(peer), "runtime": runtime, "parameters": graph["parameters"], "bytes": graph["bytes"]}
    if not row["samples_ms"]:
        return head | {"status": row.get("status", "not measured yet"), "reason": row.get("reason", "")}
    p50, p90 = np.percentile(row["samples_ms"], [50, 90])
    head |= {"status": "measured", "iterations": len(row["samples_ms"]), "round_p50_ms": row["round_p50_ms"]}
    head |= {"p50_ms": round(float(p50), 4), "p90_ms": round(float(p90), 4)}
    ours = next((k for k in rows if k[0].model == "nano" and k[0].part == peer.part and k[1] == runtime), None)
    if ours is not None and rows[ours]["round_p50_ms"]:
        ratios = [a / b for a, b in zip(row["round_p50_ms"], rows[ours]["round_p50_ms"], strict=False)]
        head["ratio_to_nano"] = round(median(ratios), 3)
        if len(ratios) >= MIN_ROUNDS and peer.model != "nano":
            low, high = median_interval(ratios)
            head |= {"ratio_low": round(low, 3), "ratio_high": round(high, 3)}
    return head


def table(record: dict[str, Any]) -> str:
    """Markdown; a cell that was not measured says so."""
    runtimes = list(dict.fromkeys(row["runtime"] for row in record["rows"]))
    head = ["", "input", "parameters", *(f"{runtime}, p50 (times nano)" for runtime in runtimes), "masks"]
    lines = ["| " + " | ".join(head) + " |", "|---|---:|---:|" + "---:|" * len(runtimes) + "---|"]
    names = list(dict.fromkeys(row["name"] for row in record["rows"]))
    for name in names:
        rows = {row["runtime"]: row for row in record["rows"] if row["name"] == name}
        first = next(iter(rows.values()))
        masks = "see above" if first["model"] == "nano" else NO_WEIGHTS
        cells = [name, f"{first['side_px']} px", f"{first['parameters'] / 1e6:.2f} M"]
        lines.append(f"| {' | '.join([*cells, *(_cell(rows.get(runtime)) for runtime in runtimes), masks])} |")
    machine = record["machine"]
    lines += ["", f"`{record['command']}` on {machine['cpu']}, {machine['cores_visible']} cores."]
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["status"] != "measured":
        return "not measured yet"
    ratio = f" ({row['ratio_to_nano']:.1f} x)" if "ratio_to_nano" in row and row["model"] != "nano" else ""
    return f"{row['p50_ms']:.1f} ms{ratio}"


@click.command(epilog="Example: python -m sam_edge.benchmarks peers --threads 2 -o benchmarks/results/peers.jsonl")
@click.option("--peer", "chosen", multiple=True, metavar="MODEL", help="nano and these.  [default: all]")
@click.option("--runtime", "runtimes", multiple=True, default=RUNTIMES, show_default=True, type=click.Choice(RUNTIMES))
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
@click.option("--iterations", default=5, show_default=True, help="Of each row in a round, at least; and 0.5 s.")
@click.option("-o", "out", type=click.Path(path_type=Path), help="Append the record to this file.")
def main(
    chosen: tuple[str, ...], runtimes: tuple[str, ...], threads: int, rounds: int, iterations: int, out: Path | None
) -> None:
    """Measure nano beside the encoders and decoders of others, and print the table."""
    peers = [peer for peer in PEERS if not chosen or peer.model in ("nano", *chosen)]
    try:
        record = measure(peers, runtimes, threads, rounds, iterations, 0.5)
    except ImportError as error:
        raise RuntimeUnavailable(
            f"the peers' graphs are made with torch ({error}). Install it with: pip install 'sam-edge[export]'"
        ) from error
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
    click.echo(table(record))
