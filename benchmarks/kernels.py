"""The kernel benchmark: every variant and baseline in one process on one GPU, timed with CUDA events.

Each result is compared with the float32 reference before it is timed, and written before the next one runs.
"""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn

from sam_edge.benchmarks.kernels_cases import Case, EncoderCase, Variant, all_cases
from sam_edge.benchmarks.kernels_table import write_table
from sam_edge.benchmarks.machine import describe_machine
from sam_edge.errors import RuntimeUnavailable
from sam_edge.kernels.launch import generation_of, has_triton
from sam_edge.kernels.measure import device_times, largest_error
from sam_edge.model.registry import build_model

__all__ = ["measure"]

SCHEMA = "sam-edge/bench-kernels/1"
DTYPE = torch.bfloat16
# Of each part's largest value: beyond it a result is not timed. SAM's own attention in bfloat16 rounds logits of 16 and
# more by up to 1/16: over 48 heads of ViT-H that was seen to give 0.052. A part of zeros is off by 1.
MAX_ERROR = 0.1
ROOT = Path(__file__).parents[1]


def measure(folder: Path, minutes: float, pages: Sequence[Path]) -> Path:
    """Run everything, or what fits into `minutes`; append to folder/kernels-<gpu>.jsonl; fill the table of the `pages`.

    Returns the file. Raises RuntimeUnavailable where there is no GPU that the kernels know.
    """
    device = _gpu()
    name = torch.cuda.get_device_name(device)
    path = folder / f"kernels-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * minutes
    run = datetime.now(UTC).isoformat(timespec="seconds")
    ceilings = {"copy_bytes_per_s": _copy_rate(device), "matrix_flops_per_s": _matrix_rate(device)}
    common = {"schema": SCHEMA, "run": run, "gpu": name, "dtype": str(DTYPE), **ceilings}
    with path.open("a", encoding="utf-8") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(common | record) + "\n")
            file.flush()
            print(_line(record), flush=True)

        write({"op": "machine", "machine": describe_machine(), "versions": _versions()})
        for case in all_cases():
            for record in _measure_case(case, device, deadline, ceilings):
                write(record)
    for page in filter(Path.is_file, pages):
        write_table(page, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    return path


def _measure_case(
    case: Case | EncoderCase, device: torch.device, deadline: float, ceilings: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """One record a variant."""
    if isinstance(case, EncoderCase):
        yield from _measure_encoder(case, device, deadline)
        return
    for record in _measure_op(case, device, deadline):
        yield _with_shares(record, case, ceilings)


def _measure_op(case: Case, device: torch.device, deadline: float) -> Iterator[dict[str, Any]]:
    """One record a variant: its error against the float32 reference, its times, its memory; or why there is none."""
    given = _attempt(lambda: _inputs_and_reference(case, device), deadline)
    for name, variant in case.variants.items():
        record: dict[str, Any] = {"op": case.op, "shape": case.shape, "batch": case.batch, "variant": name}
        if "skipped" in given:  # nothing to compare with
            yield record | {"skipped": f"no reference: {given['skipped']}"}
            continue
        yield record | _attempt(lambda v=variant: _measure_variant(v, **given), deadline)  # type: ignore[misc]
        torch.compiler.reset()
        _free()


def _inputs_and_reference(case: Case, device: torch.device) -> dict[str, Any]:
    inputs = case.inputs(device, DTYPE)
    return {"inputs": inputs, "want": _parts(case.exact(*_in_float32(inputs)))}


def _measure_variant(variant: Variant, inputs: tuple[Any, ...], want: tuple[Tensor, ...]) -> dict[str, Any]:
    run = torch.compile(variant.run, dynamic=False) if variant.compiled else variant.run
    got = _parts(run(*inputs))
    found: dict[str, Any] = {}
    if variant.comparable:
        found["error"] = largest_error(got, want)
        if not found["error"] < MAX_ERROR:  # NaN is not below
            return found | {"skipped": f"wrong result, off by {found['error']:.1e} of the largest value"}
    del got
    return found | _timed(lambda: run(*inputs))


def _measure_encoder(case: EncoderCase, device: torch.device, deadline: float) -> Iterator[dict[str, Any]]:
    """An image encoder end to end, with random weights; compiled block by block, which is what compiles in minutes."""
    torch.manual_seed(0)
    with torch.device(device):
        model = build_model(case.shape).to(DTYPE)
        image = torch.randn(case.batch, 3, *2 * (model.spec.image_size,), dtype=DTYPE)
    for tensor in model.image_encoder.parameters():
        if tensor.dim() == 2 and tensor.shape[0] % 2:  # tables of relative positions, which start at 0
            nn.init.normal_(tensor, std=0.1)
    want: Tensor | None = None
    for path, compiled in (("triton", False), ("triton", True), ("sdpa", False), ("sdpa", True), ("reference", False),
                           ("reference", True)):  # fmt: skip
        model.use_attention(path)
        torch.compiler.reset()
        encoder: Any = model.image_encoder
        originals = list(encoder.blocks)
        if compiled:
            encoder.blocks = nn.ModuleList([cast(nn.Module, torch.compile(block)) for block in originals])

        def run() -> Tensor:
            with torch.inference_mode():
                return model.encode(image)[0]

        def attempt(run: Callable[[], Tensor] = run) -> dict[str, Any]:
            nonlocal want
            got = run().float()
            want = got if want is None else want
            return {"difference": float((got - want).abs().max() / want.abs().max())} | _timed(run)

        record = {"op": case.op, "shape": case.shape, "batch": case.batch}
        yield record | {"variant": path + ", compiled" * compiled} | _attempt(attempt, deadline)
        encoder.blocks = nn.ModuleList(originals)
        _free()


def _attempt(work: Callable[[], dict[str, Any]], deadline: float) -> dict[str, Any]:
    """What `work` found, or why not: no time left, no memory, or a baseline that cannot run here."""
    if time.monotonic() > deadline:
        return {"skipped": "no time left; use --minutes"}
    try:
        return work()
    except torch.OutOfMemoryError:
        return {"skipped": "out of memory"}
    except Exception as error:  # a baseline that fails is a finding, and must not lose the others
        return {"skipped": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"}


def _timed(run: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of single calls on the GPU (`device_times`), and the peak of memory above what was held before."""
    run()
    _free()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    times = device_times(run)
    ordered = sorted(times.ms)
    return {
        "p50_ms": median(ordered),
        "p10_ms": ordered[len(ordered) // 10],
        "p90_ms": ordered[9 * len(ordered) // 10],
        "peak_bytes": peak,
        "samples_ms": [round(x, 5) for x in times.ms],
        "late_samples": times.late,  # the host's part is in these
    }


def _with_shares(record: dict[str, Any], case: Case, ceilings: dict[str, float]) -> dict[str, Any]:
    """The floor beside the time: both shares are of what this card was measured to do, not of a data sheet."""
    floor_s = max(case.flops / ceilings["matrix_flops_per_s"], case.bytes / ceilings["copy_bytes_per_s"])
    record |= {"flops": case.flops, "bytes": case.bytes, "floor_ms": 1e3 * floor_s}
    if "p50_ms" in record:
        seconds = record["p50_ms"] / 1e3
        record["share_of_matrix_rate"] = case.flops / seconds / ceilings["matrix_flops_per_s"]
        record["share_of_copy_bandwidth"] = case.bytes / seconds / ceilings["copy_bytes_per_s"]
    return record


def _copy_rate(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.randint(0, 256, (2**30,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2e3 * source.numel() / float(_timed(lambda: target.copy_(source))["p50_ms"])


def _matrix_rate(device: torch.device) -> float:
    """Operations a second of a large bfloat16 product of random matrices."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=DTYPE) for _ in range(2))
    return 2e3 * 8192**3 / float(_timed(lambda: a @ b)["p50_ms"])


def _gpu() -> torch.device:
    device = torch.device("cuda", 0)
    if not torch.cuda.is_available():
        raise RuntimeUnavailable(
            "there is no NVIDIA GPU here (torch.cuda.is_available() is False), and kernels are measured on one. Use a "
            "machine with a GPU of compute capability 8.0 or later, and a torch that was built for CUDA."
        )
    if not has_triton():
        raise RuntimeUnavailable("Triton is not installed. Install it with: pip install 'sam-edge[gpu]'")
    if generation_of(device) is None:
        raise RuntimeUnavailable(
            f"{torch.cuda.get_device_name(device)} has no rows in kernels/launch.py, expected one of GENERATIONS there."
        )
    return device


def _versions() -> dict[str, str]:
    import importlib.metadata

    return {"torch": torch.__version__, "triton": importlib.metadata.version("triton"), "cuda": str(torch.version.cuda)}


def _parts(result: Any) -> tuple[Tensor, ...]:
    """All tensors of a result, each of which is judged by itself."""
    return tuple(part.detach() for part in ((result,) if isinstance(result, Tensor) else result))


def _in_float32(inputs: Any) -> Any:
    """The same inputs for the reference."""
    if isinstance(inputs, tuple):
        return tuple(_in_float32(part) for part in inputs)
    if isinstance(inputs, Tensor):
        return inputs.detach().float().requires_grad_(inputs.requires_grad)
    return inputs


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _line(record: dict[str, Any]) -> str:
    if record["op"] == "machine":
        return f"versions: {record['versions']}"
    figure = f"{record['p50_ms']:9.3f} ms" if "p50_ms" in record else record["skipped"]
    return f"{record['op']:32} {record['shape']:32} batch {record['batch']:3} {record['variant']:28} {figure}"
