"""The state of a build: kept whole, recognised, and never mixed with another's."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from emotion_tfdata.dataset import schema
from preprocess.builder import lock
from preprocess.builder.workspace import Workspace, WorkspaceError
from preprocess.builder.writer import ShardPlan, write_shard
from preprocess.clip.measurements import Measurements
from preprocess.corpora import Skipped

ID = "ravdess/01-01"
SETTINGS = {
    "settings": {"num_classes": 6, "audio": {"num_mels": 80}},
    "inputs": {"a": [["a", 1, 0]]},
}


def example(seed=0):
    rng = np.random.default_rng(seed)
    valid = np.array([True, False, True])
    return schema.Example(
        example_id=ID,
        corpus="ravdess",
        actor="01",
        emotion="happy",
        intensity="normal",
        sentence="01",
        audio=rng.normal(-50, 10, (10, 4)).astype(np.float32),
        landmarks=(rng.normal(0, 1, (3, 5, 3)) * valid[:, None, None]).astype(np.float32),
        landmarks_valid=valid,
        head=rng.normal(size=(3, 4)).astype(np.float32),
    )


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "out")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_clip_is_kept_to_the_bytes_of_its_record(workspace):
    measurements = Measurements(-20.5, 0.01, ("a.wav",))
    size = workspace.store_example(example(), measurements)
    assert workspace.outcomes() == {ID: size}
    loaded, measured = workspace.load_example(ID)
    assert schema.encode(loaded) == schema.encode(example())
    assert measured == measurements
    assert size >= sum(array.nbytes for array in schema.stored_arrays(example()).values())


def test_a_reason_is_kept(workspace):
    skipped = Skipped("ravdess/01-01.mp4", "no face", "no face in any of its 3 pictures")
    assert workspace.outcomes() == {}
    workspace.store_skipped(ID, skipped)
    assert workspace.outcomes() == {ID: skipped}


def test_a_damaged_reason_is_none_and_said_to_be(workspace, capsys):
    workspace.store_skipped(ID, Skipped("ravdess/01-01.mp4", "no face", "no face"))
    (path,) = workspace.work_dir.rglob("*.json")
    for damaged in (b'{"path": "ravd', b"[]", b'{"path": "a"}'):
        path.write_bytes(damaged)
        assert workspace.outcomes() == {}
        assert f"{path} was damaged (" in capsys.readouterr().err


def test_what_cannot_be_stored_leaves_no_file(workspace):
    broken = dataclasses.replace(example(), audio=np.full((10, 4), np.nan, np.float32))
    with pytest.raises(schema.SchemaError, match="not finite"):
        workspace.store_example(broken)
    assert workspace.outcomes() == {}


def test_a_clip_s_file_that_was_damaged_is_named(workspace):
    workspace.store_example(example())
    (path,) = workspace.work_dir.rglob("*.npz")
    content = path.read_bytes()
    for damaged in (content[:-30], content[:100], b""):
        path.write_bytes(damaged)
        with pytest.raises(
            WorkspaceError, match=r"01-01\.npz was damaged .* is removed; the same command makes it"
        ):
            workspace.load_example(ID)
        assert not path.exists()
    with pytest.raises(WorkspaceError, match=r"01-01\.npz is gone; the same command makes it"):
        workspace.load_example(ID)


def test_a_clip_s_file_that_cannot_be_read_is_not_called_damaged(workspace):
    path = workspace.work_dir / "clips" / f"{ID}.npz"
    path.mkdir(parents=True)
    with pytest.raises(
        WorkspaceError, match=r"01-01\.npz cannot be read \(Is a directory\)\. Fix or delete it;"
    ):
        workspace.load_example(ID)
    assert path.exists()


def test_a_finished_shard_is_kept_and_its_clips_are_dropped(workspace):
    workspace.store_example(example())
    plan = ShardPlan("fold-0-of-5.tfrecord-00000-of-00001", 0, (ID,), (3,))
    modalities = schema.modalities(
        *(getattr(example(), n).shape[1] for n in ("audio", "landmarks"))
    )
    written = write_shard(workspace.out_dir, plan, workspace.load_example, modalities)
    assert workspace.standing_shards() == set()
    workspace.store_shard(written)
    assert workspace.standing_shards() == {plan.name}
    assert not list(workspace.work_dir.rglob("*.npz"))
    loaded = workspace.load_shard(plan.name)
    for field in ("shard", "fold", "records", "measurements"):
        assert getattr(loaded, field) == getattr(written, field)
    for modality in modalities:
        for grouping, group in (
            ("by_actor", ("ravdess", "01")),
            ("by_random_fold", ("ravdess", 3)),
        ):
            of_loaded, of_written = (getattr(each.sums, grouping) for each in (loaded, written))
            assert list(of_loaded) == [group]
            np.testing.assert_array_equal(
                of_loaded[group][modality].m2, of_written[group][modality].m2
            )
    (workspace.out_dir / plan.name).write_bytes(b"short")
    with pytest.raises(
        WorkspaceError, match="was removed or changed; the same command makes it again"
    ):
        workspace.load_shard(plan.name)


def test_the_plan_of_the_shards_is_kept(workspace):
    assert not workspace.has_shards_plan()
    plans = [ShardPlan("a", 0, ("x", "y"), (0, 2)), ShardPlan("b", 1, ("z",), (1,))]
    skipped = [Skipped("p", "k", "r")]
    workspace.store_shards_plan(plans, skipped)
    assert workspace.has_shards_plan()
    assert workspace.load_shards_plan() == (plans, skipped)


def test_the_same_build_may_go_on(workspace, claim):
    with claim(workspace, SETTINGS, overwrite=False) as manifest:
        assert manifest is None
        workspace.store_example(example())
        (workspace.out_dir / ".fold-0-of-5.tfrecord-00000-of-00001.99-0a1b2c3d.tmp").write_bytes(
            b"half"
        )
    assert names(workspace.out_dir) == [
        ".fold-0-of-5.tfrecord-00000-of-00001.99-0a1b2c3d.tmp",
        ".work",
        "build.json",
    ]
    with claim(workspace, SETTINGS, overwrite=False):
        assert ID in workspace.outcomes()
    assert names(workspace.out_dir) == [".work", "build.json"]


@pytest.mark.parametrize("step", ["replace", "mkdir", "touch"])
def test_a_build_interrupted_before_its_first_clip_resumes(workspace, monkeypatch, step, claim):
    workspace.out_dir.mkdir()
    owner = os if step == "replace" else Path
    usual = getattr(owner, step)

    def full(path, *args, **options):
        if path == workspace.out_dir:
            return usual(path, *args, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, full)
        # A process that is killed takes nothing away.
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(OSError, match="No space left"), claim(workspace, SETTINGS, False):
            pass
    with claim(workspace, SETTINGS, overwrite=False) as manifest:
        assert manifest is None
    assert names(workspace.out_dir) == [".work", "build.json"]


def test_clearing_interrupted_leaves_what_says_whose_the_rest_is(workspace, monkeypatch, claim):
    with claim(workspace, SETTINGS, overwrite=False):
        (workspace.out_dir / "fold-0-of-5.tfrecord-00000-of-00001").touch()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            workspace.clear()
    with claim(workspace, SETTINGS, overwrite=False) as manifest:
        assert manifest is None


def test_overwriting_resumes_the_same_build(workspace, claim):
    with claim(workspace, {**SETTINGS, "inputs": {}}, overwrite=False):
        pass
    with claim(workspace, SETTINGS, overwrite=True):
        workspace.store_example(example())
    with claim(workspace, SETTINGS, overwrite=True) as manifest:
        assert manifest is None
        assert ID in workspace.outcomes()


@pytest.mark.parametrize("content", [None, "{", "[]"], ids=["gone", "cut", "no object"])
def test_overwriting_starts_again_where_nothing_says_what_the_folder_holds(
    workspace, content, claim
):
    with claim(workspace, SETTINGS, overwrite=False):
        workspace.store_example(example())
    path = workspace.out_dir / "build.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with claim(workspace, SETTINGS, overwrite=True):
        assert workspace.outcomes() == {}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            {**SETTINGS, "settings": {"num_classes": 8, "audio": {"num_mels": 80}}},
            "settings num_classes was 6, is now 8",
        ),
        (
            {**SETTINGS, "settings": {"num_classes": 6, "audio": {"num_mels": 40}}},
            "settings audio num_mels was 80, is now 40",
        ),
        ({**SETTINGS, "inputs": {"a": [["a", 2, 0]]}}, "inputs a: a had 1 bytes, has 2"),
        (
            {**SETTINGS, "inputs": {"a": [["a", 1, 90 * 10**9]]}},
            r"inputs a: a has its size, but was written again \(1970-01-01 00:00:00 UTC, now "
            r"1970-01-01 00:01:30 UTC\)",
        ),
        ({**SETTINGS, "inputs": {"a": [["b", 1, 0]]}}, "inputs a: a then, b now"),
        (
            {**SETTINGS, "inputs": {"a": [["a", 1, 0], ["b", 1, 0]]}},
            "inputs a: 1 files then, 2 now",
        ),
        ({**SETTINGS, "inputs": {}}, "inputs a is gone"),
    ],
)
def test_another_build_is_refused_by_what_differs(workspace, other, difference, claim):
    with claim(workspace, SETTINGS, overwrite=False):
        workspace.store_example(example())
    with (
        pytest.raises(WorkspaceError, match=f"holds another build: {difference}.*--overwrite"),
        claim(workspace, other, overwrite=False),
    ):
        pass
    assert ID in workspace.outcomes()
    with claim(workspace, other, overwrite=True):
        assert workspace.outcomes() == {}


def test_of_many_differences_settings_are_named_first(workspace, claim):
    inputs = {f"clip {index}": [["a", 1, 0]] for index in range(9)}
    settings = {"num_classes": 6, "limit": 9}
    with claim(workspace, {"settings": settings, "inputs": inputs}, overwrite=False):
        pass
    other = {"settings": {**settings, "limit": 4}, "inputs": dict(list(inputs.items())[:4])}
    with (
        pytest.raises(
            WorkspaceError,
            match=r"settings limit was 9, is now 4; inputs clip 4 is gone; .* and 3 more\.",
        ),
        claim(workspace, other, overwrite=False),
    ):
        pass


@pytest.fixture
def finished(workspace, fake_data_dir, claim):
    """A workspace with a data set that was finished."""
    with claim(workspace, SETTINGS, overwrite=False):
        shutil.copytree(fake_data_dir, workspace.out_dir, dirs_exist_ok=True)
        workspace.finish()
    return workspace


def refused(workspace):
    with pytest.raises(WorkspaceError) as caught:
        workspace.take_over(SETTINGS, overwrite=False)
    return str(caught.value)


def test_a_finished_data_set_is_taken_as_it_is(finished, claim):
    with claim(finished, SETTINGS, overwrite=False) as manifest:
        assert len(manifest.index) == 30


def test_overwriting_takes_a_finished_data_set_of_the_same_build_if_it_is_whole(finished, claim):
    with claim(finished, SETTINGS, overwrite=True) as manifest:
        assert len(manifest.index) == 30
    path = sorted(finished.out_dir.glob("fold-*"))[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with claim(finished, SETTINGS, overwrite=False) as manifest:
        assert len(manifest.index) == 30  # its size is right
    with claim(finished, SETTINGS, overwrite=True) as manifest:
        assert manifest is None
    assert not path.exists()


def test_a_finished_data_set_without_one_of_its_shards_is_not_called_finished(finished, claim):
    path = sorted(finished.out_dir.glob("fold-*"))[2]
    path.unlink()
    message = refused(finished)
    assert message.startswith(f"{path} is gone")
    assert f"`python -m preprocess.verify --data_dir={finished.out_dir}`" in message
    assert message.endswith("build again with --overwrite")
    with claim(finished, SETTINGS, overwrite=True) as manifest:
        assert manifest is None


def test_a_finished_data_set_with_a_cut_shard_is_not_called_finished(finished):
    path = sorted(finished.out_dir.glob("fold-*"))[-1]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert f"{path} has {len(content) - 1} bytes, not {len(content)}" in refused(finished)


def test_a_finished_data_set_whose_manifest_names_no_file_is_not_called_finished(finished):
    path = finished.out_dir / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][1]["name"] = None
    path.write_text(json.dumps(content))
    message = refused(finished)
    assert "name is None, not a text" in message
    assert message.endswith("build again with --overwrite")


def test_a_finished_data_set_s_damaged_manifest_is_named(finished):
    path = finished.out_dir / "manifest.json"
    path.write_text(path.read_text()[:-100])
    message = refused(finished)
    assert f"{path}: not a manifest" in message
    assert message.endswith("build again with --overwrite")


def test_overwriting_removes_what_builds_leave_and_nothing_else(workspace, claim):
    shards = ["fold-0-of-5.tfrecord-00000-of-00002", ".fold-1-of-5.tfrecord-00000-of-00001.7.tmp"]
    tables = ["manifest.json", "skipped.csv", "left_out.csv"]
    with claim(workspace, SETTINGS, overwrite=False):
        for name in [*shards, *tables, "thesis.tex", "fold.txt"]:
            (workspace.out_dir / name).write_text("x")
    workspace.clear()
    assert names(workspace.out_dir) == ["fold.txt", "thesis.tex"]


def test_a_data_set_of_unknown_making_is_refused(workspace, claim):
    workspace.out_dir.mkdir()
    (workspace.out_dir / "manifest.json").write_text("{}")
    with (
        pytest.raises(WorkspaceError, match=r"holds a data set without its build\.json"),
        claim(workspace, SETTINGS, overwrite=False),
    ):
        pass


def test_only_who_sees_the_held_folder_may_work_in_it(workspace, tmp_path, claim):
    with claim(workspace, SETTINGS, overwrite=False):
        assert workspace.is_held()
        seen_from_elsewhere = pickle.loads(pickle.dumps(workspace))
        assert seen_from_elsewhere.is_held()
        # The same path on a machine that has its own folder there, even of an earlier build.
        other = Workspace(workspace.out_dir)
        assert not other.is_held()


def test_two_builds_do_not_share_a_folder(workspace, claim):
    with (
        claim(workspace, SETTINGS, overwrite=False),
        pytest.raises(WorkspaceError, match="another build is writing here"),
        claim(Workspace(workspace.out_dir), SETTINGS, overwrite=True),
    ):
        pass


def test_a_lock_that_was_let_go_meanwhile_is_not_held(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    works = fcntl.flock

    def late(file, how):
        path.unlink()  # as its holder does
        works(file, how)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", late)
        with pytest.raises(BlockingIOError, match="released just now"), lock.held(path):
            pass
    with lock.held(path):
        assert path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkspaceError, match=r"--out_dir=.*file/out cannot be written"),
        Workspace(tmp_path / "file" / "out").held(),
    ):
        pass
