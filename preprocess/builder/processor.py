"""What kind of processor this is: libraries choose their code, and so the last digits, by it."""

from __future__ import annotations

import platform
from pathlib import Path

# Instruction sets for which FaceMesh, TensorFlow and BLAS have code of their own.
_SETS = {"fma": "FMA", "avx2": "AVX2", "avx512f": "AVX-512", "amx_tile": "AMX"}


def describe(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return name and instruction sets, e.g. `AMD EPYC 9R14 (x86_64: FMA, AVX2, AVX-512)`.

    Args:
      cpuinfo: Linux's list of processors, of which the first speaks for all.
    """
    first: dict[str, str] = {}
    if cpuinfo.exists():
        block = cpuinfo.read_text(errors="replace").split("\n\n")[0]
        pairs = (line.partition(":") for line in block.splitlines())
        first = {name.strip(): value.strip() for name, _, value in pairs}
    flags = first.get("flags", "").split()
    sets = ", ".join(words for flag, words in _SETS.items() if flag in flags)
    name = first.get("model name") or platform.processor() or "unknown"
    return f"{name} ({platform.machine()}{': ' if sets else ''}{sets})"
