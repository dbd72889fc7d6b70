"""train.py as a person uses it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

from emotion_tfdata.training import command

# A network that starts quickly, for both modalities.
SMALL = [
    *("--landmarks=all", "--batch_size=12", "--epochs=2", "--model=bn_momentum=0.9"),
    *("--model=audio_filters=4,4", "--model=audio_lstm_units=4,4", "--model=tcn_dilations=1"),
    *("--model=tcn_filters=4", "--model=joined_units=8,8", "--input_threads=1"),
]
# The table of the project's design: video, L2, L2 of the TCN, augmentation, learning rate.
SYSTEMS = {
    "baseline": ("bilstm", 0.0, 0.0, False, 0.0005),
    "regularization": ("bilstm", 0.001, 0.0, False, 0.0005),
    "sync_aug": ("bilstm", 0.0, 0.0, True, 0.0005),
    "optimizer": ("bilstm", 0.0, 0.0, False, 0.001),
    "tcn_video": ("tcn", 0.0, 0.001, False, 0.0005),
    "tcn": ("tcn", 0.001, 0.001, True, 0.001),
}


@pytest.fixture
def train(project_dir, tmp_path):
    """Runs train.py in an empty folder."""

    def run(*flags, **options):
        command = [sys.executable, str(project_dir / "train.py"), *map(str, flags)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, **options
        )

    return run


def one_line_error(result) -> str:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith(("train.py:", "FATAL"))]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_help_shows_the_flags_without_waiting_for_tensorflow(train, project_dir):
    probe = (
        "import sys; sys.argv = ['train.py', '--help']\n"
        "import runpy\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('tensorflow' in sys.modules, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe], cwd=project_dir, capture_output=True, text=True, check=False
    )
    assert result.stderr.strip().endswith("False")
    for flag in (
        "--data_dir",
        "--fold",
        "--augment_stretch",
        "--select_on",
        "--checkpoint_every_s",
    ):
        assert flag in result.stdout
    assert "leaky" in result.stdout


@pytest.mark.parametrize("name", SYSTEMS)
def test_flagfiles_are_the_designs_table(parsed, project_dir, name):
    path = "tcn.flags" if name == "tcn" else f"launch/flags/{name}.flags"
    flags = parsed(f"--flagfile={path}").FLAGS
    augment = (flags.augment_factor, flags.augment_probability) == (2.0, 0.8) and flags.augment
    assert (flags.video, flags.l2, flags.l2_tcn, augment, flags.learning_rate) == SYSTEMS[name]
    assert flags.name == name
    # Nothing is left to the code's defaults but where and what files are, what is held out, and the
    # classes, which are the data set's.
    written = set(re.findall(r"^--(?:no)?(\w+)", (project_dir / path).read_text(), re.M))
    decides = {
        flag.name
        for flag in flags.flags_by_module_dict()[command.__name__]
        if not flag.name.startswith("augment_") or flags.augment
    }
    elsewhere = {
        *("data_dir", "model_dir", "overwrite", "protocol", "fold", "model"),
        *("train_corpora", "test_corpora"),
        *("checkpoint_every_s", "intra_op_threads", "inter_op_threads", "input_threads"),
        *("profile", "num_classes", "tflite"),
    }
    assert written == decides - elsewhere


def test_flags_that_follow_a_flagfile_override_it(parsed):
    flags = parsed("--flagfile=tcn.flags", "--learning_rate=0.5").FLAGS
    assert (flags.learning_rate, flags.video) == (0.5, "tcn")


def test_every_field_of_augment_has_its_flag_with_the_same_default(parsed, fake_data_dir):
    from emotion_tfdata import Augment

    module = parsed(f"--data_dir={fake_data_dir}", "--landmarks=all")
    assert command.settings_of(module.FLAGS).augment == Augment()
    for field in dataclasses.fields(Augment):
        assert f"augment_{field.name}" in module.FLAGS


def test_the_settings_defaults_are_the_flags(parsed, fake_data_dir):
    from emotion_tfdata import Features
    from emotion_tfdata.training.settings import Settings

    module = parsed(f"--data_dir={fake_data_dir}", "--landmarks=all")
    chosen = command.settings_of(module.FLAGS)
    assert chosen == Settings(name="tcn", model=chosen.model, features=Features("both"))
    assert module.FLAGS["landmarks"].default == "expressive"


def test_the_voice_alone_is_warped_masked_and_measured_from_its_own_level(parsed, fake_data_dir):
    flagfile = "--flagfile=launch/flags/ravdess_audio.flags"
    settings = command.settings_of(parsed(f"--data_dir={fake_data_dir}", flagfile).FLAGS)
    assert settings.features.relative_level
    augment = settings.augment
    assert augment.mel_warp == (0.85, 1.15)
    assert (augment.frequency_masks, augment.frequency_mask_bands) == (2, 10)
    assert (augment.time_masks, augment.time_mask_s, augment.time_mask_share) == (2, 0.2, 0.3)


@pytest.mark.parametrize("name", ["best_voice", "best"])
def test_the_best_models_hear_a_picture(parsed, fake_data_dir, name):
    flagfile = f"--flagfile=launch/flags/{name}.flags"
    flags = parsed(flagfile, f"--data_dir={fake_data_dir}", "--landmarks=all").FLAGS
    settings = command.settings_of(flags)
    assert (settings.name, settings.model.audio) == (name, "cnn")
    assert settings.model.audio_filters == (16, 32, 64, 96)
    # The voice alone has nothing to join; what may lack a modality is trained without it at times.
    alone = settings.features.modalities == "audio"
    assert settings.model.joined_units == (() if alone else (256, 128))
    assert settings.augment.modality_dropout == (0 if alone else 0.5)


def test_flags_reach_the_settings(parsed, fake_data_dir):
    module = parsed(
        f"--data_dir={fake_data_dir}", "--landmarks=0,2", "--noaugment", "--clip_norm=2.5",
        "--fold=3",
        "--model=joined_dropouts=0.25,0", "--class_weights=balanced", "--select_by=uar",
        "--protocol=luna", "--train_corpora=ravdess", "--labels=perceived",
    )  # fmt: skip
    settings = command.settings_of(module.FLAGS)
    assert settings.augment is None
    assert settings.features.landmarks == (0, 2)
    assert settings.model.num_landmarks == 2
    assert settings.model.joined_dropouts == (0.25, 0)
    assert (settings.fold, settings.clip_norm, settings.class_weights) == (3, 2.5, "balanced")
    assert (settings.protocol, settings.corpora) == ("luna", {"train": ("ravdess",)})
    assert settings.features.labels == "perceived"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data_dir=nowhere"], "nowhere does not exist .*build_tfrecords"),
        ([], r"data/sample/tfrecords does not exist .*quickstart\.sh makes it"),
        (["--modalities=sound"], r"--modalities=sound: value should be one of <both\|audio\|"),
        (["--epoch=3"], "Unknown command line flag 'epoch'. Did you mean: epochs"),
        (["--batch_size=0"], r"--batch_size=0: 0 is not an integer in the range \[1, 2147483647\]"),
        (
            ["--intra_op_threads=-2"],
            r"--intra_op_threads=-2: -2 is not .* in the range \[0, 1024\]",
        ),
        (["--checkpoint_every_s=nan"], "--checkpoint_every_s=nan: must be a number of seconds"),
        (["tcn.flags"], "unexpected argument 'tcn.flags'"),
        (["--flagfile=none.flags"], "Unable to open flagfile.*none.flags"),
    ],
)
def test_a_users_mistake_is_one_clear_line(train, flags, says):
    assert re.search(says, one_line_error(train(*flags)))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--clip_norm=inf"], r"clip_norm must be in \[0, 1e30\), got inf"),
        (
            ["--model=tcn_filters=100000000000000000000"],
            r"tcn_filters must be a whole number in \[1, 65536\], got 10{20}",
        ),
        (["--fold=9"], "--fold=9: protocol actor has folds 0 to 4"),
        (["--folds=one"], "--folds=one: give 'all' or numbers"),
        (["--folds=0,1,0"], "--folds=0,1,0: a fold is given twice"),
        (["--folds=0,9"], "--folds=0,9: .* has clips in actor folds 0, 1, 2, 3, 4"),
        (["--augment_stretch=1.1,0.9"], r"stretch must be a range \(low, high\)"),
        (["--augment_stretch=1"], r"stretch must be 2 numbers in \[0\.5, 2\], got \(1\.0,\)"),
        (["--augment_stretch=1,a"], r"--augment_stretch=1,a: give 2 numbers in \[0\.5, 2\], sep"),
        (["--model=nonsense=1"], "--model=nonsense=1: give FIELD=VALUE, with FIELD one of audio_"),
        (["--landmarks=lips"], "landmarks must be 'all', 'expressive' or a list of indices"),
        (["--select_on=none"], "lr_schedule must be cosine or constant with select_on=none"),
        (["--num_classes=8"], "was built with 6 classes"),
        (["--model_dir=/proc/none"], "--model_dir=/proc/none cannot be written"),
        (["--trim_silence_db=250"], r"trim_silence_db must be in \(0, 200\), got 250"),
        (
            ["--trim_silence_db=250", "--folds=0,1"],
            r"trim_silence_db must be in \(0, 200\), got 250",
        ),
        (["--model=audio_dropout=0.5,0.2"], "--model=audio_dropout=0.5,0.2: audio_dropout is one"),
        (["--profile=5,2"], "--profile=5,2: the steps must be 1 <= FIRST <= LAST"),
        (["--profile=some"], "--profile=some: give FIRST,LAST or a number of steps"),
    ],
)
def test_a_value_that_does_not_suit_the_data_is_one_clear_line(
    parsed, fake_data_dir, tmp_path, capsys, flags, says
):
    module = parsed(
        f"--data_dir={fake_data_dir}", "--landmarks=all", f"--model_dir={tmp_path}", *flags
    )
    assert module.main(["train.py"]) == 1
    assert re.fullmatch(rf"train\.py: .*{says}.*\n", capsys.readouterr().err)
    assert not (tmp_path / "settings.json").exists()  # the mended command finds the folder free


def test_each_seed_and_protocol_has_a_folder_of_its_own(parsed):
    assert command.default_model_dir(parsed().FLAGS) == "runs/tcn"
    flags = ["--protocol=random", "--folds=0,2", "--seeds=3", "--seed=1"]
    assert parsed(*flags)._default_folder() == "runs/tcn-random-seed-1-folds-0-2-seeds-3"


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_it_trains_reports_and_says_where_everything_is(
    parsed, fake_data_dir, tmp_path, capsys, step_by_step
):
    flags = [f"--data_dir={fake_data_dir}", f"--model_dir={tmp_path / 'm'}", *SMALL]
    flags += ["--modalities=landmarks"]
    module = parsed(*flags)
    assert module.main(["train.py"]) == 0
    out = capsys.readouterr().out
    assert "epoch 2/2" in out
    assert "6 held-out clips (made-up data)" in out
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert report["provenance"] == "made-up data"
    assert report["clips"]["held_out"]["actors"] == ["ravdess/01"]
    assert report["held_out"]["clips"] == 6
    for name in re.findall(r"^  (\S+)  ", out, re.M):
        assert (tmp_path / "m" / name).exists()
    assert list((tmp_path / "m" / "tensorboard").glob("events*"))

    # The same command again has nothing to do and says so; another one is refused.
    assert module.main(["train.py"]) == 0
    assert "finished; remove it to train it again" in capsys.readouterr().out
    module = parsed(*flags, "--learning_rate=0.5")
    assert module.main(["train.py"]) == 1
    assert "(learning_rate: there 0.001, asked for 0.5)" in capsys.readouterr().err


def test_a_processor_without_bfloat16_is_told(parsed, fake_data_dir, tmp_path, capsys, monkeypatch):
    from emotion_tfdata.training import precision

    (tmp_path / "cpuinfo").write_text("flags : fpu sse avx2\n")
    check = precision.check_precision
    monkeypatch.setattr(
        precision, "check_precision", lambda chosen: check(chosen, tmp_path / "cpuinfo")
    )
    module = parsed(
        f"--data_dir={fake_data_dir}", f"--model_dir={tmp_path / 'm'}", *SMALL,
        "--precision=mixed_bfloat16",
    )  # fmt: skip
    assert module.main(["train.py"]) == 1
    says = r"train\.py: --precision=mixed_bfloat16: this processor does not multiply bfloat16.*\n"
    assert re.fullmatch(says, capsys.readouterr().err)
    assert not (tmp_path / "m").exists()


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    parsed, fake_data_dir, tmp_path, capsys, step_by_step
):
    module = parsed(
        *(f"--data_dir={fake_data_dir}", f"--model_dir={tmp_path / 'm'}", *SMALL),
        *("--modalities=landmarks", "--epochs=1", "--noaugment"),
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most, whole in ((20_000, []), (105_000, ["checkpoint.npz", "best.keras"])):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            assert module.main(["train.py"]) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        says = rf"train\.py: {tmp_path}/m: .*File too large.*\n"
        assert re.fullmatch(says, capsys.readouterr().err)
        there = {path.name for path in (tmp_path / "m").iterdir()} - {"history.json"}
        assert there == {".lock", "settings.json", "tensorboard", *whole}
    assert module.main(["train.py"]) == 0


def test_processes_that_are_to_meet_by_tf_config_are_told_the_new_way(
    parsed, fake_data_dir, capsys, monkeypatch
):
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert parsed(f"--data_dir={fake_data_dir}").main(["train.py"]) == 1
    assert "by --runner=ray --workers=N" in capsys.readouterr().err


def test_a_second_interrupt_is_one_line(parsed, fake_data_dir, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    module = parsed(f"--data_dir={fake_data_dir}", f"--model_dir={tmp_path}", *SMALL)
    monkeypatch.setattr("emotion_tfdata.training.run.train_fold", interrupted)
    assert module.main(["train.py"]) == 130
    said = "\ninterrupted; the same command resumes from the last checkpoint\n"
    assert capsys.readouterr().err == said


def test_sigterm_saves_and_leaves_with_status_0(project_dir, fake_data_dir, tmp_path):
    command = [
        *(sys.executable, str(project_dir / "train.py"), f"--data_dir={fake_data_dir}", *SMALL),
        *(f"--model_dir={tmp_path}", "--epochs=100000", "--modalities=landmarks"),
        *("--early_stopping=0", "--checkpoint_every_s=0.01"),
    ]
    environment = {name: x for name, x in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            break
    asked_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate()
    assert process.returncode == 0
    assert errors == ""  # TensorFlow and XLA have said nothing of their start
    assert time.monotonic() - asked_s < 20
    assert re.search(r"stopped at epoch \d+, batch \d+; the same command resumes", rest)
    assert (tmp_path / "checkpoint.npz").exists()
