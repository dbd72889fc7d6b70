"""Whether this machine's processor computes in the precision asked for."""

from __future__ import annotations

from pathlib import Path

# float64 is for checking: in float32 rounding alone soon leads two trainings apart.
PRECISIONS = ("float32", "mixed_bfloat16", "float64")
_CPUINFO = Path("/proc/cpuinfo")
_LINES = ("flags", "Features")  # on x86-64 and on ARM
# What x86-64 and ARM processors that multiply bfloat16 call it.
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def check_precision(precision: str, cpuinfo: Path = _CPUINFO) -> None:
    """Check that the processor has what a precision needs.

    Without such instructions bfloat16 is computed by way of float32, and slower than that.

    Args:
      precision: one of `PRECISIONS`.
      cpuinfo: what Linux says of the processor.

    Raises:
      ValueError: if it has not.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "mixed_bfloat16":
        return
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(
            f"precision={precision}: {cpuinfo} does not tell what this processor can "
            f"({error.strerror}); use float32"
        ) from error
    lines = (line.partition(":") for line in text.splitlines())
    flags = {word for name, _, words in lines for word in words.split() if name.strip() in _LINES}
    if not flags.intersection(_BFLOAT16_FLAGS):
        raise ValueError(
            f"precision={precision}: this processor does not multiply bfloat16 (none of "
            f"{', '.join(_BFLOAT16_FLAGS)} among its flags in {cpuinfo}), so it would be slower "
            "than float32; use precision=float32"
        )
