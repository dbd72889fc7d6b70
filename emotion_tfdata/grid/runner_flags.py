"""Flags that say where trainings are done, of every command that does several."""

from __future__ import annotations

from absl import flags


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags that `run.runner_of` reads."""
    flags.DEFINE_integer(
        "jobs",
        0,
        "trainings at a time, each on its share of the cores; 0: one a core, if there is memory",
        lower_bound=0,
        upper_bound=100_000,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "cores_each",
        0,
        "of each training; 0: its share of this machine's, on Ray one",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "runner",
        "local",
        ["local", "ray"],
        "where trainings are done: on this machine, or on a Ray cluster whose nodes all see "
        "--data_dir and --model_dir under the same paths. The figures are the same",
        flag_values=values,
    )
    flags.DEFINE_string(
        "ray_address",
        "auto",
        "of the Ray cluster: auto, HOST:PORT, or local for one of its own here",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "workers",
        1,
        "with --runner=ray: processes that do one training together, each with --cores_each and "
        "its rows of every batch. The figures are those of one process, but for rounding",
        lower_bound=1,
        upper_bound=100_000,
        flag_values=values,
    )
