"""train.py by two processes on this machine: what one process would do, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.models import ModelConfig, build_model
from emotion_tfdata.training import run_dir
from emotion_tfdata.training.cluster import ClusterError
from emotion_tfdata.training.workers import Workers, check_shares, join

# In float64, since in float32 rounding alone leads two trainings apart: one process with another
# number of threads, too. `tests/benchmarks/workers.py` does it with the whole combined model. 36
# clips an epoch, so that the last batch has 4: all of them are the first worker's.
FLAGS = [
    *("--precision=float64", "--batch_size=16", "--epochs=15", "--early_stopping=0"),
    *("--modalities=landmarks", "--landmarks=all", "--model=tcn_filters=4"),
    *("--model=tcn_dilations=1", "--model=joined_units=8,8", "--model=bn_momentum=0.9"),
    *("--class_weights=balanced", "--clip_norm=1", "--label_smoothing=0.1"),
    *("--input_threads=1", "--checkpoint_every_s=0.1"),
]
WAIT_S = 240  # for what takes seconds, on a machine that does much else


class Trainer:
    """Runs train.py as one worker of two."""

    def __init__(self, project_dir, data_dir, folder):
        self.command = [sys.executable, str(project_dir / "train.py"), f"--data_dir={data_dir}"]
        self.data_dir = data_dir
        self.folder = folder
        self.model_dir = folder / "model"
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            self.addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in held]
        self.started = []

    def start(self, index):
        """Starts a worker, its output into files."""
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": self.addresses}, "task": task}
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        # The chief alone may write: what another one left in a folder of its own would be seen.
        folder = self.folder / f"other-{index}" if index else self.model_dir
        with self.output(index, "out").open("a") as out, self.output(index, "err").open("a") as err:
            process = subprocess.Popen(
                [*self.command, *FLAGS, f"--model_dir={folder}"],
                env=environment,
                cwd=self.folder,
                stdout=out,
                stderr=err,
            )
        self.started.append(process)
        return process

    def output(self, index, what):
        return self.folder / f"worker-{index}.{what}"

    def wait_for(self, index, what, pattern, times=1):
        """Waits until a worker has said so, so many times; fails if a process ends before."""
        end_s = time.monotonic() + WAIT_S
        while True:
            text = self.output(index, what).read_text()
            if len(re.findall(pattern, text, re.M)) >= times:
                return
            running = [process for process in self.started if process.poll() is None]
            assert running, self.everything()
            assert time.monotonic() < end_s, self.everything()
            time.sleep(0.02)

    def everything(self):
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in self.folder.glob("*.*"))

    def statuses(self, *processes):
        return [process.wait(WAIT_S) for process in processes]

    def history(self):
        return json.loads((self.model_dir / run_dir.HISTORY).read_text())

    def state(self):
        with np.load(self.model_dir / run_dir.CHECKPOINT) as content:
            return {name: content[name] for name in content.files if name != "state.json"}


@pytest.fixture(scope="module")
def trainer(project_dir, fake_data_dir, tmp_path_factory):
    """Makes trainers, and ends what they have left running."""
    made = []

    def make():
        made.append(Trainer(project_dir, fake_data_dir, tmp_path_factory.mktemp("workers")))
        return made[-1]

    yield make
    for process in [process for one in made for process in one.started]:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def two(trainer):
    """A training by two workers, finished."""
    two = trainer()
    assert two.statuses(two.start(0), two.start(1)) == [0, 0], two.everything()
    return two


def test_two_workers_learn_what_one_process_does(trainer, two, parsed):
    one = trainer()
    command = parsed(*FLAGS, f"--data_dir={one.data_dir}", f"--model_dir={one.model_dir}")
    assert command.main(["train.py"]) == 0
    assert len(two.history()) == len(one.history()) == 15
    for ours, theirs in zip(two.history(), one.history(), strict=True):
        for part in ("train", "selection"):
            for figure in ("loss", "accuracy"):
                assert ours[part][figure] == pytest.approx(theirs[part][figure], abs=1e-9)
        assert ours["train"]["cross_entropy"] == pytest.approx(
            theirs["train"]["cross_entropy"], abs=1e-9
        )
        assert ours["learning_rate"] == theirs["learning_rate"]
    for name, value in one.state().items():
        np.testing.assert_allclose(two.state()[name], value, atol=1e-9, err_msg=name)
    said = [(x.model_dir / run_dir.PREDICTIONS).read_text().splitlines() for x in (one, two)]
    assert [line.split(",")[0] for line in said[0]] == [line.split(",")[0] for line in said[1]]


def test_the_chief_alone_writes_and_speaks(two):
    assert two.output(1, "out").read_text() == ""
    assert "train.py" not in two.output(1, "err").read_text()
    assert not (two.folder / "other-1").exists()
    assert "epoch 15/15" in two.output(0, "out").read_text()
    assert (two.model_dir / run_dir.REPORT_JSON).exists()


def test_a_worker_is_killed_and_one_stopped_and_all_else_is_the_same_to_the_bit(trainer, two):
    broken = trainer()
    chief, other = broken.start(0), broken.start(1)
    broken.wait_for(0, "out", r"^epoch 2/")
    other.kill()
    broken.wait_for(0, "err", r"^train.py: worker 0 lost worker 1 .*: starts again")
    again = broken.start(1)
    broken.wait_for(0, "out", r"^epoch ([6-9]|1.)/")
    again.send_signal(signal.SIGTERM)
    assert broken.statuses(chief, again) == [0, 0], broken.everything()
    # The chief resumed in the process that it was, and both stopped where one of them was asked to.
    out = broken.output(0, "out").read_text()
    assert len(re.findall("^goes on from .*: epoch ", out, re.M)) == 1, out
    assert re.search(r"stopped at epoch \d+, batch \d+;", out), out

    # Each loss is of the weights that all batches before it made.
    done = [entry["train"] for entry in broken.history()]
    assert len(done) > 5
    assert done == [entry["train"] for entry in two.history()][: len(done)]


def test_a_wrong_tf_config_is_an_error_before_anybody_waits(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:2"]}}')
    with pytest.raises(ClusterError, match="TF_CONFIG: it needs 'cluster' and 'task'"):
        join(dict, lambda: False)
    monkeypatch.delenv("TF_CONFIG")
    assert join(dict, lambda: False).count == 1


def test_a_worker_without_a_row_gives_no_gradient():
    model = build_model(
        ModelConfig(
            num_audio_features=3,
            num_landmarks=2,
            audio_filters=(4, 4),
            audio_lstm_units=(4, 4),
            tcn_filters=4,
            tcn_dilations=(1, 2),
        )
    )
    nothing = {
        "audio": tf.zeros([0, 20, 3]),
        "audio_mask": tf.zeros([0, 20], tf.bool),
        "landmarks": tf.zeros([0, 7, 2, 3]),
        "landmarks_mask": tf.zeros([0, 7], tf.bool),
    }
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model.logits(nothing, training=True))
    for gradient in tape.gradient(total, model.trainable_variables):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_alone_nothing_is_exchanged():
    alone = Workers()
    assert (alone.index, alone.count, alone.is_chief) == (0, 1, True)
    assert alone.run(lambda a, b: a + b, 1, 2) == 3
    assert [alone.any(flag) for flag in (False, True)] == [False, True]
    assert alone.share(lambda: b"x") == b"x"
    assert alone.gather(b"x") == [b"x"]


def test_a_batch_must_be_dealt_equally():
    check_shares(24, 4)
    with pytest.raises(ClusterError, match="--batch_size=24 cannot be shared equally by 5 workers"):
        check_shares(24, 5)
