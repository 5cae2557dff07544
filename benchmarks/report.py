"""Records as a page that a reader understands without help: Markdown, and one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_edge.benchmarks import charts
from sam_edge.benchmarks.labels import Labels
from sam_edge.benchmarks.records import MEASURED, Record
from sam_edge.benchmarks.svg import Chart, shown
from sam_edge.errors import DataError, OutputError, require
from sam_edge.files import write_bytes_atomically

__all__ = ["write_report"]

TEMPLATES = Path(__file__).parent / "templates"
WIDE, NARROW = 880.0, 340.0  # two drawings of each chart: text keeps its size on a phone
MOST_DRAWN = 24  # rows in a chart; tables have all
MOST_WORST = 12
SEEN_TO_DIFFER = 0.99  # mask IoU
MOST_OPS = 12
INTEGER_MARKS = ("QLinear", "Integer", "/int8")  # of operators whose products are of int8
KIND_NAMES = {"box": "a box", "click": "a click", "click3": "three clicks", "mask": "a click and a rough mask"}
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Drawn:
    """A chart for wide and for narrow screens."""

    wide: Chart
    narrow: Chart


def write_report(records: Sequence[Record], directory: Path, notes: Sequence[str] = ()) -> list[Path]:
    """Write `report.md` and `report.html`, from the records alone. Raises DataError for none, OutputError."""
    if not records:
        raise DataError("there is no record in these files, expected what `sam-edge bench` wrote. Measure first.")
    jinja = require("jinja2", extra="bench")
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name) and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja.StrictUndefined,
    )
    content = {"groups": [_group(part) for part in _by_machine(records)], "notes": list(notes)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{directory} cannot be made ({error.strerror}). Choose another folder.") from error
    written = []
    for name in ("report.md", "report.html"):
        text: str = environment.get_template(f"{name}.j2").render(**content)
        write_bytes_atomically(directory / name, text.encode())
        written.append(directory / name)
    return written


def _by_machine(records: Sequence[Record]) -> list[list[Record]]:
    """Records of different machines are never drawn into one chart."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(machine_name(record["machine"]), []).append(record)
    return list(groups.values())


def machine_name(machine: dict[str, Any]) -> str:
    if "device" in machine:
        return str(machine["device"])
    cores = f", {machine['cores_visible']} cores" if "cores_visible" in machine else ""
    return f"{machine.get('cpu', 'an unnamed machine')}{cores}"


def _group(records: Sequence[Record]) -> dict[str, Any]:
    """All that the templates show of one machine's records."""
    newest = {record["configuration"]["name"]: record for record in records}  # of several of one name the last
    rows = [record for record in newest.values() if "null_of" not in record]
    whole = sorted((r for r in rows if "end_to_end" in r.get("stages", {})), key=_end_to_end)
    partly = [r for r in rows if r["status"] == MEASURED and r not in whole]
    labels = Labels.of([*whole, *partly] or rows)
    drawn = whole[:MOST_DRAWN]
    return {
        "machine": rows[0]["machine"],
        "machine_name": machine_name(rows[0]["machine"]),
        "main": Table(MAIN_HEAD, [_main(record, labels) for record in [*whole, *partly]]),
        "kinds": Table(KINDS_HEAD, [row for record in [*whole, *partly] for row in _kinds(record, labels)]),
        "scenarios": _scenarios(whole, labels),
        "profiles": [table for record in whole for table in _profile(record, labels)],
        "judged": _judged([*whole, *partly]),
        "missing": [r for r in rows if r["status"] != MEASURED],
        "total": len(rows),
        "answers": _answers(whole, labels),
        "charts": _charts(drawn, labels) if drawn else {},
        "legend": sorted({(r["configuration"]["runtime"], charts.colour(r)) for r in drawn}),
        "drawn": len(drawn),
        "measured": len(whole) + len(partly),
        "worst": _worst(whole, labels),
        "noise": _noise(newest),
        "commands": sorted({record["command"] for record in rows if "command" in record}),
        "quick": any(record["run"].get("quick") for record in whole),
        "load": _load(whole),
        "times": sorted({record["time_utc"][:10] for record in rows if "time_utc" in record}),
    }


def _charts(drawn: Sequence[Record], labels: Labels) -> dict[str, Drawn]:
    made: dict[str, Callable[[float], Chart | None]] = {
        "front": lambda width: charts.front(drawn, labels, width),
        "ladder": lambda width: charts.ladder(drawn, labels, width),
        "stages": lambda width: charts.stage_bars(drawn, labels, width),
        "click": lambda width: charts.distributions(drawn, labels, width, "click"),
        "end_to_end": lambda width: charts.distributions(drawn, labels, width, "end_to_end"),
        "rounds": lambda width: charts.over_rounds(drawn, labels, width),
        "sustained": lambda width: charts.sustained(drawn, labels, width),
    }
    both = {name: (draw(WIDE), draw(NARROW)) for name, draw in made.items()}
    return {
        name: Drawn(wide, narrow) for name, (wide, narrow) in both.items() if wide is not None and narrow is not None
    }


def _end_to_end(record: Record) -> float:
    return float(record["stages"]["end_to_end"]["p50_ms"])


MAIN_HEAD: tuple[str, ...] = (
    "configuration",
    "bytes to mask",
    "p90",
    "encode",
    "click",
    "p90",
    "load",
    "memory, MiB",
    "files, MB",
)
MAIN_HEAD += ("IoU", "mIoU box", "mIoU click")


def _main(record: Record, labels: Labels) -> list[str]:
    """A line of the main table; what was not measured is "", never zero."""
    stages, kinds = record.get("stages", {}), record.get("quality", {}).get("kinds", {})
    least, load = _least_iou(record), sorted(record.get("load_ms", ()))

    def stage(name: str, figure: str) -> str:
        found = stages.get(name, {})
        if figure == "p50_ms" and figure not in found and "mean_ms" in found:
            return f"{shown(found['mean_ms'])} (mean)"  # all that some tools say
        return shown(found[figure]) if figure in found else ""

    return [
        labels(record),
        stage("end_to_end", "p50_ms"),
        stage("end_to_end", "p90_ms"),
        stage("encode", "p50_ms"),
        stage("click", "p50_ms") or stage("decode", "p50_ms"),
        stage("click", "p90_ms") or stage("decode", "p90_ms"),
        shown(load[len(load) // 2]) if load else "",
        _mib(record.get("memory", {}).get("peak_bytes")),
        f"{record['artifact']['bytes'] / 1e6:.1f}" if record.get("artifact") else "",
        "" if least is None else f"{least:.3f}",
        _miou(kinds.get("box")),
        _miou(kinds.get("click")),
    ]


def _mib(value: int | None) -> str:
    return "" if value is None else f"{value / MEBIBYTE:,.0f}"


def _miou(kind: dict[str, Any] | None) -> str:
    return f"{kind['miou_percent']:.1f}" if kind and "miou_percent" in kind else ""


def _answers(whole: Sequence[Record], labels: Labels) -> list[dict[str, str]]:
    """What most readers came for: the fastest row, the fastest with the reference's masks, the smallest."""
    if not whole:
        return []
    found = [_answer("Fastest", whole[0], labels)]
    faithful = [r for r in whole if (low := _least_iou(r)) is not None and low >= 0.99]
    if faithful:
        found.append(_answer("Fastest with the reference's masks", faithful[0], labels))
    sized = [r for r in whole if r.get("artifact")]
    if sized:
        found.append(_answer("Smallest files", min(sized, key=lambda r: r["artifact"]["bytes"]), labels))
    return found


def _answer(title: str, record: Record, labels: Labels) -> dict[str, str]:
    stages, least = record["stages"], _least_iou(record)
    size = f", {record['artifact']['bytes'] / 1e6:.1f} MB" if record.get("artifact") else ""
    iou = f"; masks agree with the reference at IoU {least:.3f}" if least is not None else ""
    said = (
        f"{shown(stages['end_to_end']['p50_ms'])} ms from a photo's bytes to the first mask, "
        f"{shown(stages['click']['p50_ms'])} ms for each further click{size}{iou}."
    )
    return {"title": title, "name": labels(record), "said": said}


def _least_iou(record: Record) -> float | None:
    kinds = record.get("quality", {}).get("kinds", {})
    ious = [kind["mask_iou_mean"] for kind in kinds.values() if "mask_iou_mean" in kind]
    return min(ious) if ious else None


KINDS_HEAD: tuple[str, ...] = (
    "configuration",
    "prompt",
    "mIoU, %",
    "95 % interval",
    "IoU with reference",
    "5th percentile",
    "smallest",
)
KINDS_HEAD += ("retention",)


def _kinds(record: Record, labels: Labels) -> list[list[str]]:
    """A line a prompt kind."""
    rows = []
    for name, kind in record.get("quality", {}).get("kinds", {}).items():
        interval = (
            f"{kind['miou_low_percent']:.1f} to {kind['miou_high_percent']:.1f}" if "miou_percent" in kind else ""
        )
        figures = [
            f"{kind[figure]:.3f}" if figure in kind else ""
            for figure in ("mask_iou_mean", "mask_iou_p5", "mask_iou_min", "retention")
        ]
        rows.append([labels(record), KIND_NAMES.get(name, name), _miou(kind), interval, *figures])
    return rows


def _scenarios(whole: Sequence[Record], labels: Labels) -> Table:
    """A row a configuration, a column a scenario that any of them has."""
    found = [(record, record.get("scenarios", {})) for record in whole]
    names = [name for name in dict.fromkeys(n for _, each in found for n in each) if name != "sustained"]
    head = ["configuration", *(_scenario_name(name) for name in names), "masks found", "peak memory, MiB"]
    rows = []
    for record, each in found:
        times = [shown(each[name]["p50_ms"]) if "p50_ms" in each.get(name, {}) else "" for name in names]
        peaks = [figures["peak_memory_bytes"] for figures in each.values() if "peak_memory_bytes" in figures]
        masks = str(each.get("everything", {}).get("masks", ""))
        if any(times):
            rows.append([labels(record), *times, masks, _mib(max(peaks, default=None))])
    return Table(tuple(head), rows)


def _scenario_name(name: str) -> str:
    return "everything, ms" if name == "everything" else f"{name.removeprefix('prompts_')} prompts, ms"


OPS_HEAD = ("operator", "calls", "ms", "share", "GFLOP/s", "of the ceiling", "GB/s", "of the ceiling")


def _profile(record: Record, labels: Labels) -> list[dict[str, Any]]:
    """A table a graph: encoder and decoder."""
    ceilings, found = record.get("ceilings", {}), []
    floats, integers = (ceilings.get(f"matmul_{name}_per_s") for name in ("float32_gflop", "int8_gop"))

    def share(op: dict[str, Any], rate: str) -> str:
        products = integers if any(mark in op["type"] for mark in INTEGER_MARKS) else floats
        limit = products if rate == "gflop_per_s" else ceilings.get("copy_gb_per_s")
        return f"{100 * op[rate] / limit:.0f} %" if rate in op and limit else ""

    for graph, ops in record.get("profile", {}).get("graphs", {}).items():
        rows = [
            [
                op["type"],
                str(op["calls"]),
                shown(op["ms"]),
                f"{op['share_percent']:.0f} %",
                *(
                    cell
                    for rate in ("gflop_per_s", "gb_per_s")
                    for cell in (
                        shown(op[rate]) if rate in op else "",
                        share(op, rate),
                    )
                ),
            ]
            for op in ops[:MOST_OPS]
        ]
        found.append({"title": f"{labels(record)}, {graph}", "table": Table(OPS_HEAD, rows)})
    return found


def _judged(whole: Sequence[Record]) -> str:
    """On what and by what the masks were judged."""
    for record in whole:
        quality = record.get("quality", {})
        if quality.get("kinds"):
            data, objects = quality["data"], max(kind["objects"] for kind in quality["kinds"].values())
            truth = f"{objects} objects with ground truth" if data["ground_truth"] else "without ground truth"
            lacking = f" ({quality['reference']['reason']})" if "reason" in quality["reference"] else ""
            by = f"the reference is {quality['reference']['name']}{lacking}"
            return f"{data['photos']} photos ({data['name']}), {truth}; {by}"
    return ""


def _worst(whole: Sequence[Record], labels: Labels) -> list[dict[str, Any]]:
    """Each object once, as the configuration drew it that differs most; what nobody sees differ is left out."""
    found = [worst | {"row": labels(record)} for record in whole for worst in record.get("worst", ())]
    of_object: dict[tuple[str, int], dict[str, Any]] = {}
    for worst in sorted(found, key=lambda worst: worst["mask_iou"]):
        if worst["mask_iou"] < SEEN_TO_DIFFER:
            of_object.setdefault((worst["photo"], worst["object_id"]), worst)
    return list(of_object.values())[:MOST_WORST]


def _noise(newest: dict[str, Record]) -> str:
    """How far one configuration was from itself, in words; "" without a null comparison."""
    for record in newest.values():
        first = newest.get(record.get("null_of", ""))
        if first is None or "stages" not in record or "stages" not in first:
            continue
        pairs = zip(
            record["stages"]["end_to_end"]["round_p50_ms"], first["stages"]["end_to_end"]["round_p50_ms"], strict=False
        )
        ratios = sorted(a / b for a, b in pairs)
        return f"{ratios[0]:.2f} to {ratios[-1]:.2f} times, {ratios[len(ratios) // 2]:.2f} in the median"
    return ""


def _load(whole: Sequence[Record]) -> str:
    loads = [r["before"]["load_average_1min"] for w in whole for r in w["rounds"] if "load_average_1min" in r["before"]]
    return f"{min(loads):.1f} to {max(loads):.1f}" if loads else ""
