"""Trainings on the nodes of a Ray cluster. Needs the extra [ray].

Each is a Ray task. Ray starts one that was on a lost node again on another; it resumes from its
checkpoint, which lies, as the data set does, where all nodes see it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from emotion_tfdata import ray_join
from emotion_tfdata.grid import ray_train, worker
from emotion_tfdata.grid.job import GridError, Job
from emotion_tfdata.ray_join import first_line

_START_S = 120.0
_RETRIES = 10  # after lost nodes; a training that ends its own process counts, too


class OnRay:
    """Runs trainings as Ray tasks, as many at a time as there are CPUs. A context manager."""

    def __init__(self, address: str, jobs: int, cpus: int, workers: int = 1) -> None:
        """Join the cluster.

        Args:
          address: `auto` for the one that this machine belongs to, `host:port`, or `local` for one
            of its own on this machine.
          jobs: most trainings at a time; 0 for what there are CPUs for.
          cpus: of each training, or of each of its workers.
          workers: processes that do a training together.

        Raises:
          GridError: if there is no such cluster, or it has too few CPUs.
        """
        self._most, self._cpus, self._workers = jobs, cpus, workers
        self._jobs: dict[Any, Job] = {}
        try:
            ray_join.join(address)
        except ray_join.ClusterError as error:
            raise GridError(
                f"{error}. Start one with `ray up launch/ray.yaml`, or by hand with "
                "`ray start --head`, and on the other machines `ray start --address=HOST:6379`"
            ) from error
        if not self._slots():
            ray.shutdown()
            raise GridError(
                f"the Ray cluster has no room for {workers} times {cpus} CPUs, each on one node, "
                "which a training takes"
            )
        self.how = f"{self._slots()} at a time on {len(_nodes())} Ray nodes, {cpus} CPUs each"
        if workers > 1:
            self.how += f" of {workers} workers"

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()  # ends what is still being done

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on one of the nodes; return what it gives."""
        reference = self._remote(function).remote(*args)
        began_s = time.monotonic()
        while not ray.wait([reference], timeout=1.0)[0]:
            if time.monotonic() - began_s > _START_S and not ray.available_resources().get("CPU"):
                raise GridError(
                    f"the Ray cluster gave no CPUs within {_START_S:g} s; `ray status` says what "
                    "takes them"
                )
        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            raise GridError(_about(error)) from error

    def check(self, args: Sequence[str]) -> str:
        """Return why a training cannot be done as its flags say; empty if it can."""
        args = worker.with_threads(args, self._cpus)
        return self.call(_on_this_node, _versions(), "", worker.check, args, self._workers)

    def room(self) -> int:
        """Return how many more trainings could begin now; nodes may have come or gone."""
        return self._slots() - len(self._jobs)

    def start(self, job: Job, stop_file: Path) -> None:
        """Begin a training."""
        own = dataclasses.replace(job, args=worker.with_threads(job.args, self._cpus))
        if self._workers == 1:
            reference = self._remote(_on_this_node).remote(
                *(_versions(), str(stop_file.parent), worker.train, own, str(stop_file))
            )
        else:
            share = self._workers, self._cpus, _RETRIES
            train = self._remote(ray_train.train).options(num_cpus=0)
            reference = train.remote(own, str(stop_file), *share)
        self._jobs[reference] = job

    def wait(self, seconds: float) -> list[tuple[Job, str]]:
        """Wait until one ends or time is up; return those that ended, each with what went wrong."""
        done, _ = ray.wait(list(self._jobs), timeout=seconds)
        return [(self._jobs.pop(reference), _problem(reference)) for reference in done]

    def _slots(self) -> int:
        slots = sum(int(_cpus_of(node) // self._cpus) for node in _nodes()) // self._workers
        return min(slots, self._most) if self._most else slots

    def _remote(self, function: Callable[..., Any]) -> Any:
        return ray.remote(num_cpus=self._cpus, max_retries=_RETRIES)(function)


def _versions() -> dict[str, str]:
    """Return the versions, as installed here, of what a training's bits depend on."""
    return {name: importlib.metadata.version(name) for name in ("tensorflow", "numpy")}


def _on_this_node(
    versions: Mapping[str, str], folder: str, function: Callable[..., str], *args: Any
) -> str:
    """Return what a function says is wrong, with the node's name; or why the node cannot run it.

    Args:
      versions: of the machine that asks.
      folder: that this node must see, made by that machine; empty for none.
      function: does the work.
      *args: of it.
    """
    node, here = f"Ray node {socket.gethostname()}", _versions()
    others = [name for name, version in versions.items() if here[name] != version]
    if others:
        there, asked = (", ".join(f"{n} {of[n]}" for n in others) for of in (here, versions))
        return f"{node} has {there}, and the machine that asks {asked}: install the same on both"
    if folder and not os.path.isdir(folder):
        return f"{node} does not see {folder}: --model_dir must be on storage that all nodes share"
    said = function(*args)
    return f"{node}: {said}" if said else ""


def _nodes() -> Sequence[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _cpus_of(node: dict[str, Any]) -> float:
    return node["Resources"].get("CPU", 0.0)


def _problem(reference: Any) -> str:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return _about(error)


def _about(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ImportError):
        return (
            f"a node cannot work ({first_line(cause)}). Install the project there as here: "
            "pip install -c launch/constraints.txt '.[train,ray]'"
        )
    return first_line(cause)
