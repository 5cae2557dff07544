"""The machine a figure was measured on, as far as it says so itself (evaluation protocol, section 3, "The machine")."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe_machine", "machine_state", "memory_bytes"]

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve")
LIBRARIES = (
    "sam-edge",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "coremltools",
    "torch",
)


def describe_machine() -> dict[str, Any]:
    """CPU, cores, clocks, load, memory and versions; what cannot be read is absent."""
    cpu = _cpuinfo()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    found: dict[str, Any] = {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "cores_visible": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_free_bytes": _meminfo("MemAvailable"),
        "memory_total_bytes": _meminfo("MemTotal"),
        "kernel": platform.release(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "container": Path("/.dockerenv").exists() or None,
        "libraries": {name: metadata.version(name) for name in LIBRARIES if _installed(name)},
    }
    return {name: value for name, value in found.items() if value is not None}


def machine_state() -> dict[str, Any]:
    """What changes from one round to the next: load, free memory, clock, temperature; what cannot be read is absent."""
    found = {
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "memory_free_bytes": _meminfo("MemAvailable"),
        "clock_mhz": _clock_mhz(),
        "temperature_c": _temperature_c(),
    }
    return {name: value for name, value in found.items() if value is not None}


def _clock_mhz() -> float | None:
    """The mean of all cores, as the kernel says it; virtual machines show their host's nominal clock."""
    clocks = [
        float(line.partition(":")[2])
        for line in (_read("/proc/cpuinfo") or "").splitlines()
        if line.startswith("cpu MHz")
    ]
    return round(sum(clocks) / len(clocks), 1) if clocks else None


def _temperature_c() -> float | None:
    """The hottest thermal zone."""
    readings = [_read(str(zone)) for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in readings if text and text.lstrip("-").isdigit()]
    return max(degrees) if degrees else None


def memory_bytes() -> dict[str, int]:
    """This process's resident set now and at its peak (VmRSS, VmHWM); empty where the system does not say."""
    status = _read("/proc/self/status") or ""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    names = {"resident_bytes": "VmRSS", "peak_resident_bytes": "VmHWM"}
    return {name: int(fields[key].split()[0]) * 1024 for name, key in names.items() if key in fields}


def _cpuinfo() -> dict[str, str]:
    text = _read("/proc/cpuinfo") or ""
    lines = text.split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _meminfo(field: str) -> int | None:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
