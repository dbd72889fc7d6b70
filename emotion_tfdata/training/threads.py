"""How many threads suit a machine."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")

# What can run at the same time: two directions of two branches.
_MOST_INTER_OP = 4
# Two branches side by side leave each operation half of the cores: with all of them its threads
# wait for each other, which took a seventh of a step's processor time on two cores. A step's
# largest matrix product takes 7 ms on one core, most take 2 ms, and the recurrence, a third of the
# step, is a chain of products of 30 us that more threads only slow down.
_MOST_INTRA_OP = 16
# Reading and augmenting takes a twentieth of a step's processor time. Each thread holds a batch.
_MOST_INPUT = 4


class Threads(NamedTuple):
    """Sizes of TensorFlow's thread pools and of the input's.

    Attributes:
      intra_op: threads within an operation.
      inter_op: operations at a time.
      input: threads that read and augment.
    """

    intra_op: int
    inter_op: int
    input: int


def usable_cores(cpu_max: Path = _CPU_MAX) -> int:
    """Count the cores that this process may use: of its affinity mask and its container's share.

    Args:
      cpu_max: where Linux (control groups, version 2) has the share.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        share = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no control groups, or no limit, which is written "max"
        return cores
    return max(1, min(cores, share))


def slots(
    jobs: int, cores_each: int = 0, nodes: Sequence[Sequence[int]] | None = None
) -> list[list[int]]:
    """Deal cores to processes: as many for each, its own, and of one NUMA node if possible.

    Args:
      jobs: how many processes.
      cores_each: of each; 0 for its share of all.
      nodes: the cores of each NUMA node, threads of a core next to each other; None for this
        machine's that this process may use.

    Returns:
      For each process its cores; none, for any, where there are fewer cores than processes.
    """
    nodes = _nodes() if nodes is None else nodes
    cores = sum(map(len, nodes))
    each = cores_each or cores // jobs
    if not each or each * jobs > cores:
        return [[]] * jobs
    found: list[list[int]] = []
    rest: list[int] = []
    for node in nodes:
        whole = len(node) - len(node) % each
        found += [list(node[i : i + each]) for i in range(0, whole, each)]
        rest += node[whole:]
    found += [rest[i : i + each] for i in range(0, len(rest) - each + 1, each)]
    return found[:jobs]


def _nodes() -> list[list[int]]:
    if not hasattr(os, "sched_getaffinity"):  # not Linux: nobody can be bound to cores
        return []
    nodes: dict[int, list[tuple[int, int, int]]] = {}
    for cpu in os.sched_getaffinity(0):
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}")
        node = min((int(path.name[4:]) for path in folder.glob("node[0-9]*")), default=0)
        try:
            package, core = (
                int((folder / "topology" / name).read_text())
                for name in ("physical_package_id", "core_id")
            )
        except (OSError, ValueError):
            package, core = 0, cpu
        nodes.setdefault(node, []).append((package, core, cpu))
    return [[cpu for *_, cpu in sorted(cores)] for _, cores in sorted(nodes.items())]


def suited_to(cores: int) -> Threads:
    """Return the numbers of threads for so many cores.

    More threads than these would wait for each other: cores beyond 16 are better used by another
    training at the same time, of another fold or seed.
    """
    return Threads(
        intra_op=min(max(1, cores // 2), _MOST_INTRA_OP),
        inter_op=min(cores, _MOST_INTER_OP),
        input=min(cores, _MOST_INPUT),
    )


def choose(intra_op: int, inter_op: int, input_threads: int) -> Threads:
    """Set the sizes of TensorFlow's pools; 0 stands for what suits the machine.

    Returns:
      What was chosen.

    Raises:
      RuntimeError: for a number other than 0 when TensorFlow has made its pools already.
    """
    import tensorflow as tf

    suited = suited_to(usable_cores())
    for number, fitting, set_number in (
        (intra_op, suited.intra_op, tf.config.threading.set_intra_op_parallelism_threads),
        (inter_op, suited.inter_op, tf.config.threading.set_inter_op_parallelism_threads),
    ):
        if number:
            set_number(number)
        else:
            # Whoever runs several trainings in a process keeps the first one's pools.
            with contextlib.suppress(RuntimeError):
                set_number(fitting)
    return Threads(
        intra_op or suited.intra_op, inter_op or suited.inter_op, input_threads or suited.input
    )
