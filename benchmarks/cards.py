"""Writes measured figures into README.md, MODEL_CARD.md and pages of docs/, from records and nothing else.

A page says where: `<!-- figures: quality cocoval -->` ... `<!-- end -->`. `python -m sam_edge.benchmarks.cards` fills
the blocks from `benchmarks/results/`; a test holds that the pages are what this writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sam_edge.artifact import record_quality
from sam_edge.benchmarks.ablation_table import table as ablation_table
from sam_edge.benchmarks.aims import table as aims_table
from sam_edge.benchmarks.formats import SCHEMA as FORMATS_SCHEMA
from sam_edge.benchmarks.formats import newest, table
from sam_edge.benchmarks.peers import table as peers_table
from sam_edge.evaluate.metrics import SIZES
from sam_edge.evaluate.protocol import SECOND_LOOKS
from sam_edge.evaluate.report import tables
from sam_edge.runtimes import ASSETS

__all__ = ["quality", "render"]

RESULTS = Path("benchmarks/results")
PAGES = tuple(map(Path, ("README.md", "MODEL_CARD.md", "docs/ablations.md", "docs/browser.md", "docs/export.md")))
BLOCK = re.compile(r"(<!-- figures: (?P<what>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MEBIBYTE = 2**20


def render(page: str, results: Path) -> str:
    """The page with every block filled from the newest fitting record. Raises KeyError for a block without a record."""

    def fill(match: re.Match[str]) -> str:
        name, _, argument = match["what"].partition(" ")
        return f"{match[1]}{BLOCKS[name](argument, results)}\n{match[3]}"

    return BLOCK.sub(fill, page)


def _quality(data: str, results: Path) -> str:
    record = _quality_record(data, results)
    seen = record["data"]
    head = f"`{_command(record['command'])}`: {seen['photos_evaluated']} photos, {seen['objects_evaluated']} objects."
    return f"{head}\n\n{tables(record)}"


def _summary(_: str, results: Path) -> str:
    """The short table of README: what a click and a box give, beside what is free."""
    head = "| data | box | click | click3 | box, click with `--refine` | free: ellipse in the box | free: GrabCut |"
    lines = [f"{head} free: disc at the click |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for data in ("cocoval", "lvisval", "ecssd"):
        record = _quality_record(data, results)
        kinds = record["kinds"]
        cells = [_interval(kinds[k]) for k in ("box", "click", "click3")]
        cells.append(", ".join(f"{kinds[k]['miou_percent']:.1f}" for k in SECOND_LOOKS.values() if k in kinds))
        cells += [f"{kinds[k]['miou_percent']:.1f}" for k in ("ellipse in box", "GrabCut from box", "disc at click")]
        seen = record["data"]
        row = f"{data}, {seen['photos_evaluated']} photos, {seen['objects_evaluated']} objects"
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(kind: dict[str, Any]) -> str:
    return f"**{kind['miou_percent']:.1f}** [{kind['miou_low_percent']:.1f}, {kind['miou_high_percent']:.1f}]"


def _latency(_: str, results: Path) -> str:
    record = _records(results / "nano-latency.jsonl")[-1]
    stages, machine, start = record["stages"], record["machine"], record["segment_cold_start"]
    middle = sorted(record["everything_ms"])[len(record["everything_ms"]) // 2] / 1e3
    rows = [
        ("encode a photo (512 px)", stages["encode"]),
        ("a click on it, decode to mask at photo size", stages["click"]),
        ("photo's bytes to mask", stages["end_to_end"]),
    ]
    lines = ["| stage | p50 | p90 |", "|---|---:|---:|"]
    lines += [f"| {name} | {stage['p50_ms']:.1f} ms | {stage['p90_ms']:.1f} ms |" for name, stage in rows]
    lines.append(f"| everything mode, 32 x 32 points | {middle:.1f} s | |")
    cold, peak = start["p50_ms"] / 1e3, start["peak_resident_bytes"] / MEBIBYTE
    lines.append(f"| `sam-edge segment`, process start to written file | {cold:.2f} s | |")
    lines.append(f"| peak memory of that process | {peak:.0f} MiB | |")
    cpu = f"{machine['cpu']} ({', '.join(machine['cpu_flags'])}), {machine['cores_visible']} cores"
    library = f"onnxruntime {machine['libraries']['onnxruntime']}, {record['threads']} threads"
    return "\n".join([*lines, "", f"`{record['command']}` on {cpu}, {library}, a shared virtual machine."])


def _formats(argument: str, results: Path) -> str:
    """Every exported format of a model, as certified on all of the evaluation sets."""
    lines = [line for line in _records(results / f"{argument}-export.jsonl") if line["schema"] == FORMATS_SCHEMA]
    timed = results / f"{argument}-bench.jsonl"
    measured = _records(timed) if timed.exists() else []
    commands = "; ".join(f"`{command}`" for command in dict.fromkeys(line["command"] for line in newest(lines)))
    text = f"{table(newest(lines), measured)}\n\nMasks: {commands}."
    if not measured:
        return text
    last = measured[-1]
    cpu = f"{last['machine']['cpu']}, {last['machine']['cores_visible']} cores of a shared virtual machine"
    return f"{text} Latency (medians): `{last['command']}` on {cpu}."


def _quality_record(data: str, results: Path) -> dict[str, Any]:
    fitting = [r for r in _records(results / "nano-quality.jsonl") if Path(r["data"]["paths"][0]).name == data]
    if not fitting:
        raise KeyError(f"no record for {data} in {results}")
    return fitting[-1]


def _command(command: str) -> str:
    """Without where the data lay: pages name the set."""
    return re.sub(r"\S*/(\w+val|ecssd)\b", r"DATA/\1", command)


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _ablation(group: str, results: Path) -> str:
    fitting = [record for record in _records(results / "ablations.jsonl") if record["group"] == group]
    if not fitting:
        raise KeyError(f"no record for {group} in {results}")
    return ablation_table(fitting[-1])


def _sizes(_: str, results: Path) -> str:
    """The same weights at other input sides, on `cocoval`: the newest record of each side, and the released side's."""
    released = _quality_record("cocoval", results)
    records = [*_records(results / "nano-sizes.jsonl"), released]
    by_side = {record["model"]["image_size_px"]: record for record in records}
    lines = ["| input side | box | small | medium | large | click | click3 |", "|---|---:|---:|---:|---:|---:|---:|"]
    for side, record in sorted(by_side.items()):
        kinds = record["kinds"]
        cells = [f"{kinds['box']['miou_percent']:.1f}"]
        cells += [f"{kinds['box']['by_size'][size]['miou_percent']:.1f}" for size in SIZES]
        cells += [f"{kinds[kind]['miou_percent']:.1f}" for kind in ("click", "click3")]
        lines.append(f"| {side} px | {' | '.join(cells)} |")
    commands = [f"`{_command(record['command'])}`" for _, record in sorted(by_side.items()) if record is not released]
    return "\n".join([*lines, "", f"{'; '.join(commands)}; the released side as in MODEL_CARD.md."])


def _aims(_: str, results: Path) -> str:
    cocoval, ecssd = (_quality_record(data, results) for data in ("cocoval", "ecssd"))
    return aims_table(cocoval, ecssd, _records(results / "nano-bench.jsonl"))


def _peers(_: str, results: Path) -> str:
    return peers_table(_records(results / "peers.jsonl")[-1])


def _browser(_: str, results: Path) -> str:
    """The page's waits, of the newest record of each number of threads."""
    newest_of = {record["threads"]: record for record in _records(results / "browser.jsonl")}
    head = "| threads | encode | a click at once | a click after the pointer rested 200 ms |"
    lines = [f"{head} from the address to the first mask |", "|---|---:|---:|---:|---:|"]
    for threads, record in sorted(newest_of.items()):
        clicks = [
            f"{record[f'{name}_p50_ms']:.1f} ms, p90 {record[f'{name}_p90_ms']:.1f} ms"
            for name in ("click", "rested_click")
        ]
        first = f"{record['first_mask_ms'] / 1e3:.1f} s"
        lines.append(f"| {threads} | {record['encode_p50_ms']:.0f} ms | {' | '.join(clicks)} | {first} |")
    last = newest_of[max(newest_of)]
    command = f"SAM_EDGE_BROWSER_RECORD=benchmarks/results/browser.jsonl {last['command']}"
    machine = f"{last['machine']['cores']} cores of a shared {last['machine']['cpu']}"
    where = f"{last['browser'].capitalize()}, {last['backend'].upper()}, {machine}"
    return "\n".join([*lines, "", f"`{command}`: {where}; medians of {last['clicks']} clicks."])


BLOCKS: dict[str, Callable[[str, Path], str]] = {
    "ablation": _ablation,
    "aims": _aims,
    "browser": _browser,
    "formats": _formats,
    "latency": _latency,
    "peers": _peers,
    "quality": _quality,
    "sizes": _sizes,
    "summary": _summary,
}


def quality(results: Path) -> dict[str, float]:
    """What a manifest says of the model: mIoU in percent by data set and prompt kind."""
    return {
        f"{data}_{kind}_miou_percent": round(_quality_record(data, results)["kinds"][kind]["miou_percent"], 1)
        for data in ("cocoval", "ecssd")
        for kind in ("box", "click")
    }


@click.command()
def main() -> None:
    """Fill the pages and the shipped manifest; run from the checkout's root."""
    record_quality(ASSETS / "nano", quality(RESULTS))
    for page in PAGES:
        page.write_text(render(page.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
        click.echo(f"wrote {page}")


if __name__ == "__main__":
    main()
