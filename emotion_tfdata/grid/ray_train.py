"""One training by several processes of a Ray cluster, which Ray Train starts and looks after.

When one is lost, Ray Train ends the others and starts all again; they resume from the checkpoint.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import ray

from emotion_tfdata.grid import worker
from emotion_tfdata.grid.job import Job

_STORAGE = ".ray_train"  # Ray Train's own files
# Ray Train imports TensorFlow before we are asked, and would have each line in the log twice.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}


class _Failure:
    """Why a training failed. A failure is not repeated, as the loss of a worker is."""

    def __init__(self) -> None:
        self._text = ""

    def get(self) -> str:
        return self._text

    def set(self, text: str) -> None:
        self._text = text


def train(job: Job, stop_file: str, workers: int, cpus: int, retries: int) -> str:
    """Train one model by several workers.

    Args:
      job: the training.
      stop_file: a file that appears when the training is to save and leave.
      workers: how many.
      cpus: of each.
      retries: how often workers may be lost.

    Returns:
      Nothing if it is finished or stopped, else what it said last.
    """
    # They import TensorFlow, which who hands out work does not.
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.tensorflow import TensorflowTrainer

    failure = ray.remote(_Failure).options(num_cpus=0).remote()
    trainer = TensorflowTrainer(
        _work,
        train_loop_config={"job": job, "stop_file": stop_file, "failure": failure},
        scaling_config=ScalingConfig(
            num_workers=workers, resources_per_worker={"CPU": cpus}, placement_strategy="SPREAD"
        ),
        run_config=RunConfig(
            name=_STORAGE,
            storage_path=str(job.folder.absolute()),
            failure_config=FailureConfig(max_failures=retries),
            worker_runtime_env={"env_vars": _ENVIRONMENT},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return str(error).strip().partition("\n")[0]
    finally:
        shutil.rmtree(job.folder / _STORAGE, ignore_errors=True)
    return ray.get(failure.get.remote())


def _work(config: dict[str, Any]) -> None:
    failure = config["failure"]
    if ray.get(failure.get.remote()):
        return  # Ray Train has started all again
    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # which Ray Train sets
    said = worker.train(config["job"], config["stop_file"], several=True)
    if said and not Path(config["stop_file"]).exists():
        if worker.IN_USE not in said:  # by those who were lost, for a moment
            ray.get(failure.set.remote(said))
        raise RuntimeError(said)  # has Ray Train end the others, who wait for this one
