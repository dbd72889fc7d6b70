"""Memory that is kept is not asked for again; counted by the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Batches freed and taken again: the new pages of the second time.
_PROGRAM = """
import resource, sys
import numpy as np
from emotion_tfdata.stream.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    batch = [np.ones(300_000, np.uint8) for _ in range(200)]
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del batch
print(taken)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_kept_memory_is_not_asked_for_again():
    taken = {
        how: int(subprocess.check_output([sys.executable, "-c", _PROGRAM, how]))
        for how in ("kept", "left")
    }
    pages = 200 * 300_000 // 4096
    assert taken["kept"] < 0.01 * pages
    assert taken["left"] > 0.5 * pages
