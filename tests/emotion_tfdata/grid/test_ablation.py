"""The ablation as a person uses it: real trainings, stopped, broken, resumed.

Slow, since each of its three commands starts a process that imports TensorFlow.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.stats

from emotion_tfdata.grid.ablation import training as folders
from emotion_tfdata.grid.ablation.plan import Plan
from emotion_tfdata.training import run_dir

# A network that starts quickly; the made-up clips have six landmarks.
SMALL = [
    *("--modalities=landmarks", "--landmarks=all", "--batch_size=12", "--model=bn_momentum=0.9"),
    *("--model=tcn_filters=4", "--model=tcn_dilations=1", "--model=video_lstm_units=4"),
    *("--model=joined_units=8,8", "--checkpoint_every_s=0"),
]


def wait_until(holds, what, seconds, process=None):
    """Waits for something to hold; fails if it takes too long, or a process ends before."""
    end_s = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end_s, f"{what} took longer than {seconds} s"
        time.sleep(0.05)


class Ablation:
    """The command, with its folder."""

    def __init__(self, project_dir, data_dir, model_dir, *flags, train_flags=SMALL):
        self.model_dir = model_dir
        self._project_dir = project_dir
        self._command = [
            *(sys.executable, "-m", "emotion_tfdata.grid.ablation"),
            *(f"--data_dir={data_dir}", f"--model_dir={model_dir}", *flags),
        ]
        self._train_flags = ["--", *train_flags]

    def start(self, *flags):
        return subprocess.Popen(
            [*self._command, *flags, *self._train_flags],
            cwd=self._project_dir,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags):
        process = self.start(*flags)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def log(self, name):
        path = self.model_dir / name / "train.log"
        return path.read_text() if path.exists() else ""


def one_line_error(result):
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


BASELINE, TCN = "actor/baseline/seed-0", "actor/tcn/seed-0"


@pytest.fixture(scope="module")
def story(project_dir, fake_data_dir, tmp_path_factory):
    """An ablation of two systems by two folds: stopped, met with a fault, finished, asked again."""
    model_dir = tmp_path_factory.mktemp("ablation")
    ablation = Ablation(
        project_dir, fake_data_dir, model_dir, "--systems=baseline,tcn", "--folds=0,1",
        "--protocols=actor", "--seeds=1", "--epochs=1",
    )  # fmt: skip
    results = {}

    process = ablation.start("--jobs=1")
    wait_until(lambda: "trains on" in ablation.log(f"{BASELINE}/fold-0"), "it", 300, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    results["stopped"] = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    results["stopped tables"] = (model_dir / "ablation.md").read_text()
    results["stopped log"] = ablation.log(f"{BASELINE}/fold-0")

    # One was begun by a train.py that had other settings, and cannot be resumed.
    of = Plan.make(
        data_dir=fake_data_dir, model_dir=str(model_dir), systems=["tcn"], protocols=["actor"],
        num_seeds=1, folds=["1"], epochs=1, train_args=SMALL,
    )  # fmt: skip
    training = of.trainings[0]
    folders.prepare(of.folder(training), of.request(training), "alone")
    (of.folder(training) / "settings.json").write_text('{"name": "tcn"}')
    results["one fails"] = ablation.run("--jobs=1")
    results["one fails tables"] = (model_dir / "ablation.md").read_text()
    results["one fails json"] = json.loads((model_dir / "ablation.json").read_text())

    results["overwritten"] = ablation.run("--overwrite")
    started_s = time.monotonic()
    results["again"] = ablation.run()
    results["again_s"] = time.monotonic() - started_s
    results["other epochs"] = ablation.run("--epochs=2")
    return ablation, results


def test_sigterm_reaches_the_training_which_saves(story):
    _, results = story
    result = results["stopped"]
    assert result.returncode == 0, result.stderr
    assert "stopped with 0 of 4 trainings done; the same command resumes" in result.stdout
    assert "stopping; the trainings save first" in result.stdout
    assert re.search("stopped at .*; the same command", results["stopped log"])
    assert "4 trainings are missing" in results["stopped tables"]


def test_the_same_command_adds_to_the_log_of_what_was_stopped(story):
    ablation, results = story
    log = ablation.log(f"{BASELINE}/fold-0")
    assert log.startswith(results["stopped log"])
    assert "epoch 1/1  train loss" in log[len(results["stopped log"]) :]


def test_a_failure_is_listed_with_its_last_line_and_the_others_go_on(story):
    _, results = story
    result = results["one fails"]
    assert result.returncode == 1
    line = rf"\[\d/4\] {TCN}/fold-1: FAILED: train\.py: .* holds a training with other settings"
    assert re.search(line, result.stdout)
    tables = results["one fails tables"]
    assert "3 of 4 trainings are done" in tables
    assert f"- {TCN}/fold-1: failed: train.py: --model_dir=" in tables
    assert "| tcn (1 of 2 trainings) |" in tables
    states = {one["folder"]: one["state"] for one in results["one fails json"]["trainings"]}
    assert states.pop(f"{TCN}/fold-1").startswith("failed: train.py: --model_dir=")
    assert set(states.values()) == {"finished"}


def test_overwrite_trains_again_what_cannot_be_resumed_and_keeps_the_rest(story):
    _, results = story
    result = results["overwritten"]
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 trainings, 3 of them finished; " in result.stdout
    assert f"[4/4] {TCN}/fold-1: UAR " in result.stdout


def test_what_is_finished_is_not_repeated(story):
    _, results = story
    assert results["again"].returncode == 0
    assert "4 trainings, all of them finished" in results["again"].stdout
    assert results["again_s"] < 10  # four trainings would have to start TensorFlow


def test_other_settings_are_refused_before_anything_is_trained(story):
    said = one_line_error(story[1]["other epochs"])
    assert "holds 4 trainings with other settings, actor/baseline/seed-0/fold-0 for one" in said
    assert "(there --epochs=1; asked for --epochs=2)" in said
    assert "--overwrite" in said


def test_figures_are_those_of_the_reports_and_intervals_those_of_scipy(story):
    ablation, _ = story
    summary = json.loads((ablation.model_dir / "ablation.json").read_text())
    parts = summary["protocols"]["actor"]["parts"]
    assert set(parts) == {"all", "ravdess"}
    reports = {
        name: [
            json.loads((ablation.model_dir / name / f"fold-{fold}" / "report.json").read_text())
            for fold in (0, 1)
        ]
        for name in (BASELINE, TCN)
    }
    for metric in ("uar", "accuracy"):
        values = {
            name: np.array([report["held_out"][metric] for report in each])
            for name, each in reports.items()
        }
        for found, expected in (
            (parts["all"]["baseline"][metric], values[BASELINE]),
            (parts["all"]["tcn"][metric], values[TCN]),
            (parts["all"]["tcn"][f"{metric}_minus_baseline"], values[TCN] - values[BASELINE]),
        ):
            assert found["mean"] == pytest.approx(expected.mean())
            half_width = scipy.stats.t.ppf(0.975, 1) * scipy.stats.sem(expected)
            assert found["half_width"] == pytest.approx(half_width)
            assert (found["units"], found["count"]) == ("folds", 2)
    seconds = [report["seconds"] for report in reports[TCN]]
    assert parts["all"]["tcn"]["seconds"] == pytest.approx(np.mean(seconds))


def test_every_output_says_that_the_clips_are_not_real(story):
    ablation, results = story
    for name in ("ablation.md", "ablation.html"):
        text = (ablation.model_dir / name).read_text()
        assert "Ablation on made-up data" in text
        assert "All figures are of made-up data; they say nothing about people." in text
    summary = json.loads((ablation.model_dir / "ablation.json").read_text())
    assert summary["provenance"] == "made-up data"
    assert "figures will be of made-up data" in results["again"].stdout
    assert not list(ablation.model_dir.glob("*.tmp"))


def test_a_killed_ablation_leaves_no_training_behind(project_dir, fake_data_dir, tmp_path):
    ablation = Ablation(
        project_dir, fake_data_dir, tmp_path, "--systems=baseline", "--folds=0", "--seeds=1",
        "--protocols=actor", "--epochs=100000",
    )  # fmt: skip
    process = ablation.start()
    name = f"{BASELINE}/fold-0"
    try:
        wait_until(lambda: "epoch 1/" in ablation.log(name), "a training", 300, process)
    finally:
        process.kill()
        process.communicate()

    def is_free():
        try:
            with run_dir.locked(tmp_path / name):
                return True
        except run_dir.RunDirError:
            return False

    wait_until(is_free, "the training saves and ends too", 60)


def test_a_dry_run_shows_the_commands_and_does_nothing(project_dir, fake_data_dir, tmp_path):
    model_dir = tmp_path / "m"
    ablation = Ablation(
        project_dir, fake_data_dir, model_dir, "--systems=tcn,baseline", "--folds=all",
        "--seeds=2", "--jobs=1", "--dry_run", train_flags=["--learning_rate=0.01"],
    )  # fmt: skip
    result = ablation.run()
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    shown = [line for line in lines if line.startswith("to be trained: ")]
    assert len(shown) == 2 * 5 * 2 * 2  # systems, folds, seeds, protocols
    assert len(set(shown)) == len(shown)
    flagfile = project_dir / "tcn.flags"
    assert re.search(
        rf"train\.py --flagfile={flagfile} .*--learning_rate=0\.01 --data_dir={fake_data_dir} "
        rf"--model_dir={model_dir}/actor/tcn/seed-0/fold-0 --protocol=actor --fold=0 --seed=0$",
        shown[0],
    )
    assert "dry run: nothing was done" in lines[-1]
    assert not model_dir.exists()


@pytest.mark.parametrize(
    ("flags", "train_flags", "says"),
    [
        (["--systems=tnc"], [], "--systems: there is no 'tnc'; give some of baseline,regul"),
        (["--systems="], [], "--systems: nothing is named"),
        (["--protocols=speaker"], [], "--protocols: there is no 'speaker'; give some of actor,ran"),
        (["--protocols=hicmae"], [], "--protocols=hicmae: .* holds out actors of crema_d"),
        (["--folds=0,9"], [], r"no clip in fold 9 \(actor protocol\); folds with clips: 0, 1, 2,"),
        (["--folds=one"], [], "--folds=one: give 'all' or numbers, e.g. 0,2"),
        (
            ["--data_dir=nowhere"],
            [],
            "--data_dir=nowhere: nowhere does not exist .*build_tfrecords",
        ),
        (["--data_dir=s3://b/d"], [], "--data_dir=s3://b/d: .*copy it to this machine first"),
        (["--model_dir=/proc/none"], [], "--model_dir=/proc/none cannot be written"),
        ([], ["--sed=3"], "train.py: Unknown command line flag 'sed'"),
        ([], ["--seed=3"], "--seed=3 cannot be handed on: --seed is the ablation's own to say"),
        ([], ["tcn.flags"], "unexpected argument 'tcn.flags'; train.py's flags go after --"),
        ([], ["--flagfile=none.flags"], "after --: Unable to open flagfile"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    project_dir, fake_data_dir, tmp_path, flags, train_flags, says
):
    ablation = Ablation(project_dir, fake_data_dir, tmp_path, *flags, train_flags=train_flags)
    said = one_line_error(ablation.run())
    assert re.fullmatch(f"emotion_tfdata.grid.ablation: .*{says}.*", said)


def test_help_explains(project_dir, fake_data_dir, tmp_path):
    out = Ablation(project_dir, fake_data_dir, tmp_path, "--help").run().stdout
    for word in (
        "resumes where it was stopped",
        "leaky",
        "--jobs",
        "[no]overwrite",
        "Flags after --",
    ):
        assert word in out
