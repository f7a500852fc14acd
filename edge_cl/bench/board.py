"""What a speed was measured on: board, clocks, temperature and versions, read from the files of the system.

| file below the root | what it says |
|---|---|
| proc/device-tree/model | the board, with a NUL at its end; on others `model name` of proc/cpuinfo |
| var/lib/nvpmodel/status | `pmode:0001` (and on some boards ` fmode:quiet`): the power mode that nvpmodel has saved |
| etc/nvpmodel.conf | `< POWER_MODEL ID=1 NAME=25W >`: the name of the mode |
| sys/devices/system/cpu/cpufreq/policy0/ | `scaling_governor`, and `scaling_max_freq` in kHz |
| sys/class/devfreq/17000000.gpu/max_freq | the GPU's limit in Hz |
| sys/class/thermal/thermal_zone0/ | `type`, and `temp` in thousandths of a degree |
| proc/loadavg | `0.52 0.58 0.59 1/389 2345`: the first is of the last minute |
| etc/nv_tegra_release | `# R36 (release), REVISION: 4.7, ...` |
"""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path("/")
UNAVAILABLE = "unavailable"

# the junction is NVIDIA's name for the hottest spot; others, such as PMIC-Die of the Nano, only ever say 100
ZONES = ("tj", "cpu", "x86_pkg", "soc", "")
PACKAGES = {
    "edge_cl": ("edge_cl",),
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-rocm"),
    "onnx": ("onnx",),
    "numba": ("numba",),
    "Pillow": ("Pillow",),
    "torch": ("torch",),
}


def describe_machine(root: Path = ROOT) -> dict[str, Any]:
    """Return board, cores, memory_bytes, clocks and versions.

    Args:
        root: the folder that holds proc, sys, etc and var.
    """
    return {
        "board": board_of(root),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _kilobytes(root / "proc/meminfo", "MemTotal"),
        "clocks": clocks_of(root),
        "versions": versions_of(root),
    }


def board_of(root: Path = ROOT) -> str:
    """Return the name of the board, or of the processor where there is no device tree."""
    if model := read_text(root / "proc/device-tree/model").strip("\0 \n"):
        return model
    found = re.search(r"^model name\s*:\s*(.+)$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.machine() or UNAVAILABLE


def clocks_of(root: Path = ROOT) -> dict[str, Any]:
    """Return nvpmodel's saved mode, the governors of the processors, and the limits of processors and GPU in MHz."""
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    governors = sorted({name for policy in policies if (name := read_text(policy / "scaling_governor").strip())})
    gpus = [entry for entry in (root / "sys/class/devfreq").glob("*") if re.search(r"\.(gpu|g\w\d\db)$", entry.name)]
    return {
        "nvpmodel": _saved_mode(root),
        "governor": ", ".join(governors) or UNAVAILABLE,
        "cpu_limit_mhz": _largest([policy / "scaling_max_freq" for policy in policies], 10**3),
        "gpu_limit_mhz": _largest([gpu / "max_freq" for gpu in gpus], 10**6),
    }


def temperature_of(root: Path = ROOT) -> dict[str, Any] | str:
    """Return celsius and zone of the hottest junction, else of the processor.

    A zone that is switched off fails to be read, or says -256 degrees.
    """
    zones = []
    for folder in (root / "sys/class/thermal").glob("thermal_zone*"):
        name, millidegrees = read_text(folder / "type").strip(), _number(folder / "temp")
        places = [place for place, start in enumerate(ZONES) if name.lower().startswith(start)]
        if name and millidegrees is not None and -40_000 < millidegrees < 150_000:
            zones.append((places[0], name, millidegrees / 1000))
    if not zones:
        return UNAVAILABLE
    _, name, celsius = min(zones)
    return {"celsius": celsius, "zone": name}


def load_of(root: Path = ROOT) -> float | str:
    """Return how many processes wanted to run, as a mean of the last minute: above the cores, the times are longer."""
    found = re.match(r"\d+\.\d+", read_text(root / "proc/loadavg"))
    return float(found[0]) if found else UNAVAILABLE


def versions_of(root: Path = ROOT) -> dict[str, str]:
    """Return the versions of Python, the kernel, NVIDIA's board support and the packages; none is imported for it."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release"))
    found["l4t"] = f"{release[1]}.{release[2]}" if release else UNAVAILABLE
    for name, distributions in PACKAGES.items():
        found[name] = next((version for each in distributions if (version := _version(each))), "not installed")
    return found


def resident_peak_bytes(root: Path = ROOT) -> int | str:
    """Return the most memory that this process has had resident since it was started.

    Unlike `getrusage`, whose figure a child process inherits from the one that started it.
    """
    return _kilobytes(root / "proc/self/status", "VmHWM")


def read_text(path: Path) -> str:
    """Return the text of a small file, empty where it cannot be read: a sensor that is off answers with an error."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _saved_mode(root: Path) -> str:
    mode = re.search(r"pmode:\s*0*(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    if not mode:
        return UNAVAILABLE
    names = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", read_text(root / "etc/nvpmodel.conf"), re.MULTILINE)
    name = dict(names).get(mode[1])
    return f"{name} (mode {mode[1]})" if name else f"mode {mode[1]}"


def _largest(files: list[Path], unit: int) -> float | str:
    numbers = [number for file in files if (number := _number(file)) is not None]
    return max(numbers) / unit if numbers else UNAVAILABLE


def _number(file: Path) -> int | None:
    text = read_text(file).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _kilobytes(file: Path, key: str) -> int | str:
    found = re.search(rf"^{key}:\s*(\d+) kB$", read_text(file), re.MULTILINE)
    return int(found[1]) * 1024 if found else UNAVAILABLE


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
