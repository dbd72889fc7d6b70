"""`Records` serves, without TensorFlow, what `make_dataset` serves."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emotion_tfdata import Features, Records, testing
from emotion_tfdata.dataset.tfrecord import CorruptDataError
from emotion_tfdata.features import META


@pytest.mark.parametrize(
    ("split", "options", "features"),
    [
        ("train", {}, {}),
        ("test", {"fold": 2}, {"normalize": False, "modalities": "audio"}),
        ("validation", {"fold": 1, "validation_fold": 3}, {"landmarks": (5, 1)}),
        ("all", {"protocol": "random"}, {"relative_level": True, "trim_silence_db": 12.0}),
    ],
)
def test_clips_are_those_of_make_dataset(fake_data_dir, split, options, features):
    from emotion_tfdata import Reading, make_dataset

    features = Features(with_ids=True, **features)
    records = Records(fake_data_dir, split, features=features, **options)
    reading = Reading(num_buckets=1)
    batches = make_dataset(
        fake_data_dir, split, features=features, batch_size=10, reading=reading, **options
    )
    served = {}
    for batch, labels in batches:
        batch = {name: values.numpy() for name, values in batch.items()}
        for row, label in enumerate(labels.numpy()):
            clip = {name: values[row] for name, values in batch.items()}
            served[clip["example_id"].decode()] = clip, label
    assert sorted(served) == sorted(records.example_ids)
    for clip, label in zip(records, records.labels, strict=True):
        batch, wanted = served[clip.pop("example_id")]
        assert clip.pop("label") == label == wanted
        assert sorted(clip) == sorted(set(batch) - {"example_id"})
        for name, value in clip.items():
            whole = batch[name]
            assert whole.dtype == value.dtype
            np.testing.assert_allclose(whole[: len(value)], value, rtol=1e-5, atol=1e-5)
            assert not whole[len(value) :].any()


def test_pose_and_facts_are_the_record_s(fake_data_dir):
    features = Features(head=True, with_meta=True, normalize=False)
    records = Records(fake_data_dir, "test", fold=1, features=features)
    examples = {each.example_id: each for each in testing.fake_examples()}
    for example_id, clip in zip(records.example_ids, records, strict=True):
        example = examples[example_id]
        assert [clip[name] for name in META] == [getattr(example, name) for name in META]
        valid = example.landmarks_valid
        np.testing.assert_array_equal(clip["head"][valid], example.head[valid])
        assert not clip["head"][~valid].any()


def test_it_is_a_sequence_that_workers_can_be_given(fake_data_dir):
    records = Records(fake_data_dir, "all", features=Features(with_ids=True))
    assert len(records) == 30
    assert [clip["example_id"] for clip in records[-2:]] == records.example_ids[-2:]
    assert records[np.int64(3)]["example_id"] == records.example_ids[3]
    with pytest.raises(IndexError):
        records[30]
    copy = pickle.loads(pickle.dumps(records))
    np.testing.assert_array_equal(copy[7]["landmarks"], records[7]["landmarks"])
    chosen = Records(fake_data_dir, "all", example_ids=records.example_ids[4:6])
    assert chosen.example_ids == records.example_ids[4:6]


def test_a_damaged_record_is_named_and_takes_no_other_with_it(tmp_path):
    testing.write_data_set(str(tmp_path), testing.fake_examples(clips_per_actor=2), num_folds=2)
    shard = sorted(tmp_path.glob("*.tfrecord-*"))[0]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    records = Records(tmp_path, "all")
    with pytest.raises(CorruptDataError, match=rf"{shard.name}: record ravdess/\S+: its bytes do"):
        records[0]
    assert records[1]["audio"].any()
    shard.write_bytes(content[:-1])
    last = np.flatnonzero([name.startswith("ravdess/clip-03") for name in records.example_ids])[-1]
    with pytest.raises(CorruptDataError, match="cut short"):
        records[int(last)]


_WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from emotion_tfdata import Records
seconds = sum(len(clip["audio"]) for clip in Records({data_dir!r}, "train")) / 100
print(round(seconds), sorted(name for name in ("keras", "absl") if name in sys.modules))
"""


def test_tensorflow_is_not_needed(fake_data_dir):
    code = _WITHOUT_TENSORFLOW.format(data_dir=fake_data_dir)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, loaded = done.stdout.split(maxsplit=1)
    assert int(seconds) > 20
    assert loaded == "[]\n"


_USER = """
import tensorflow as tf
from emotion_tfdata import Augment, Features, Reading, Records, class_weights, make_dataset

train: tf.data.Dataset = make_dataset("d", "train", augment=Augment(factor=2.0), num_epochs=3)
test = make_dataset("d", "test", features=Features(landmarks="expressive"), reading=Reading())
weights: dict[int, float] = dict(enumerate(class_weights("d").tolist()))
records = Records("d", "train", features=Features(modalities="audio"))
ids: list[str] = records.example_ids
for clip in records[:3]:
    print(clip["audio"].shape, clip["label"], weights, train, test, ids)
"""


def test_a_user_s_program_is_type_checked(tmp_path, project_dir):
    (tmp_path / "user.py").write_text(_USER)
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\nfollow_imports = silent\n"
        "[mypy-tensorflow.*]\nfollow_imports = skip\nignore_missing_imports = true\n"
    )
    assert (project_dir / "emotion_tfdata" / "py.typed").exists()
    wrong = tmp_path / "wrong.py"
    wrong.write_text(_USER.replace("fold=", "").replace("factor=2.0", "factor='2'"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "user.py", "wrong.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "", "MYPYPATH": str(project_dir), "HOME": str(Path.home())},
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("user.py")] == [], done.stdout
    assert any(line.startswith("wrong.py") and "arg-type" in line for line in lines), done.stdout


def test_the_pytorch_example_runs(project_dir, fake_data_dir, capsys):
    pytest.importorskip("torch", reason="PyTorch is not among what the tests install")
    text = (project_dir / "emotion_tfdata" / "README.md").read_text()
    (block,) = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    block = block.replace("num_workers=2", "num_workers=0")
    exec(block.replace("data/sample/tfrecords", fake_data_dir), {})
    assert "torch.Size([24, " in capsys.readouterr().out
