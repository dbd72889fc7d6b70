"""Whole builds: good clips among bad files, the same bytes however they are made, real clips."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import sys

import numpy as np
import pytest
from scipy.io import wavfile

from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.manifest import Manifest
from preprocess.builder import writer
from preprocess.builder.building import build
from preprocess.builder.plan import BuildError, BuildSettings, plan_build
from preprocess.builder.pool import Pool
from preprocess.builder.process_clip import Stop, Work
from preprocess.builder.workspace import Workspace
from preprocess.builder.writer import ShardPlan
from preprocess.clip.landmarks import NUM_LANDMARKS

GOOD = ("01-01-03-01-01-01-01.mp4", "01-01-05-01-01-01-02.mp4")
JOINED = "02-01-06-01-01-01-02"
FLV = "1001_DFA_ANG_XX"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, encode, blank_pictures):
    """Two small corpora in which most files are bad, each in its own way."""
    root = tmp_path_factory.mktemp("corpora")
    ravdess, crema_d = root / "ravdess", root / "crema_d" / "VideoFlash"
    encode(ravdess / "Video_Speech_Actor_01" / "Actor_01" / GOOD[0])
    whole = encode(ravdess / GOOD[1]).path.read_bytes()
    encode(ravdess / f"{JOINED}.mp4", sound=False)
    encode(ravdess / f"03{JOINED[2:]}.wav", audio_rate_hz=16000)
    # Bad ones.
    (ravdess / f"02{GOOD[0][2:]}").write_bytes(whole)
    (ravdess / "01-01-04-01-01-01-01.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (ravdess / "01-01-05-01-01-01-01.mp4").write_text("not a film\n")
    encode(ravdess / "01-01-06-01-01-01-01.mp4", sound=False)
    encode(ravdess / "01-01-07-01-01-01-01.mp4", picture=blank_pictures)
    encode(ravdess / "01-01-04-02-01-01-01.mp4", picture=False)
    encode(ravdess / "01-01-03-02-01-01-01.mp4", sound=np.zeros(48000, np.float32))
    encode(ravdess / "03-01-03-01-02-01-01.wav")
    (ravdess / "01-01-08-01-01-01-01.mp4").write_bytes(whole)
    (ravdess / "01-02-03-01-01-01-01.mp4").write_bytes(whole)
    encode(crema_d / f"{FLV}.flv", audio_rate_hz=44100)
    (crema_d / "1002_DFA_ANG_XX.flv").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 265922\n"
    )
    (crema_d / "1003_DFA_ANG_XX.flv").write_bytes(b"")
    (crema_d / "1076_MTI_SAD_XX.flv").write_bytes(whole)
    return {"ravdess": ravdess, "crema_d": root / "crema_d"}


def loaded_dir(out_dir):
    """Where workers that build in `out_dir` say what they have loaded."""
    return out_dir.with_name(f"{out_dir.name}-loaded")


@dataclasses.dataclass(frozen=True)
class Telling:
    """A build's work that leaves a list of the modules that doing it has loaded."""

    work: Work

    def __call__(self, task):
        result = self.work(task)
        path = loaded_dir(self.work.workspace.out_dir) / f"{type(task).__name__}-{os.getpid()}"
        path.write_text("\n".join(sys.modules))
        return result


@pytest.fixture(scope="module")
def built(corpora, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("built")
    loaded_dir(out_dir).mkdir()

    def make_pool(work, *arguments, **options):
        return Pool(Telling(work), *arguments, **options)

    return out_dir, build(corpora, out_dir, BuildSettings(), num_workers=2, make_pool=make_pool)


def process(roots, out_dir, settings, skip):
    """Processes all clips but the first few in this process, the last first."""
    plan, work = planned(roots, out_dir, settings)
    description = {"settings": settings.as_dict(), "inputs": plan.inputs()}
    work.workspace.take_over(description, overwrite=False)
    for clip in plan.clips[skip:][::-1]:
        assert not isinstance(work(clip), Stop)


def planned(roots, out_dir, settings):
    plan = plan_build(roots, settings)
    workspace = Workspace(out_dir)
    return plan, Work(roots, settings, settings.as_dict(), workspace, plan.checked)


def shards(out_dir):
    return {path.name: path.read_bytes() for path in out_dir.glob("fold-*")}


def examples(out_dir):
    import tensorflow as tf

    names = [str(out_dir / shard.name) for shard in Manifest.load(str(out_dir)).shards]
    return [schema.decode(each) for each in tf.data.TFRecordDataset(names).as_numpy_iterator()]


def test_good_clips_are_built_from_among_bad_files(built):
    out_dir, report = built
    found = {each.example_id: each for each in examples(out_dir)}
    stems = [name[:-4] for name in GOOD]
    assert set(found) == {*(f"ravdess/{stem}" for stem in [*stems, JOINED]), f"crema_d/{FLV}"}
    for each in found.values():
        assert each.landmarks_valid.all()
        assert each.landmarks.shape == (len(each.landmarks_valid), NUM_LANDMARKS, 3)
        assert len(each.audio) == pytest.approx(100, abs=4)
        assert len(each.landmarks) == pytest.approx(30, abs=2)
        eyes = each.landmarks[:, [33, 133, 263, 362]].mean(axis=1)
        np.testing.assert_allclose(eyes, 0, atol=2e-4)
    assert report.clips_written == 4
    assert report.clips_found == report.clips_read == 10


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        (f"ravdess/02{GOOD[0][2:]}", "duplicate take", f"duplicate take of .*{GOOD[0]}"),
        ("ravdess/01-01-04-01-01-01-01.mp4", "unreadable", "not a whole mp4 file"),
        ("ravdess/01-01-05-01-01-01-01.mp4", "unreadable", "not a whole mp4 file"),
        ("ravdess/01-01-06-01-01-01-01.mp4", "no sound", "without sound; --modalities=landmarks"),
        ("ravdess/01-01-07-01-01-01-01.mp4", "no face", "no face in any of its 25 pictures"),
        ("ravdess/01-01-04-02-01-01-01.mp4", "no picture", "without picture; --modalities=audio"),
        ("ravdess/01-01-03-02-01-01-01.mp4", "silence", "silence from end to end"),
        ("ravdess/03-01-03-01-02-01-01.wav", "no picture", "without picture; --modalities=audio"),
        ("ravdess/01-01-08-01-01-01-01.mp4", "emotion", "surprised is not among the 6 classes"),
        ("ravdess/01-02-03-01-01-01-01.mp4", "song", "sung, not spoken"),
        ("crema_d/VideoFlash/1002_DFA_ANG_XX.flv", "lfs pointer", "git lfs pull"),
        ("crema_d/VideoFlash/1003_DFA_ANG_XX.flv", "unreadable", "the file is empty"),
        ("crema_d/VideoFlash/1076_MTI_SAD_XX.flv", "known bad", "error picture"),
    ],
)
def test_each_bad_file_is_listed_with_its_reason(built, path, kind, reason):
    out_dir, report = built
    (entry,) = [each for each in Manifest.load(str(out_dir)).skipped if each["path"] == path]
    assert entry["kind"] == kind
    assert re.search(reason, entry["reason"]), entry["reason"]
    assert f"{path},{kind}," in (out_dir / "skipped.csv").read_text()
    assert (out_dir / "left_out.csv").read_text() == (out_dir / "skipped.csv").read_text()
    assert f"{path}: {entry['reason']}" in str(report)


def test_nothing_else_is_skipped(built):
    assert built[1].skipped == len(Manifest.load(str(built[0])).skipped) == 13


def test_the_manifest_says_what_the_data_set_holds(built):
    out_dir, _ = built
    manifest = Manifest.load(str(out_dir))
    assert [*manifest.modalities] == ["audio", "landmarks"]
    assert manifest.modalities["audio"].array.step == schema.AUDIO_STEP_DB
    assert (manifest.num_classes, manifest.num_folds) == (6, 5)
    assert (manifest.num_audio_features, manifest.num_landmarks) == (80, NUM_LANDMARKS)
    assert manifest.settings["audio"]["n_fft"] == 512
    assert manifest.settings["versions"]["mediapipe"]
    for shard in manifest.shards:
        content = (out_dir / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    rows = np.concatenate([each.audio for each in examples(out_dir)]).astype(np.float64)
    for protocol in ("actor", "random"):
        moments = manifest.moments("audio", protocol, range(5))
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(moments.deviation, rows.std(axis=0), atol=1e-6)
    assert sorted(path.name for path in out_dir.iterdir()) == sorted(
        [
            *("build.json", "skipped.csv", "left_out.csv", "report.html", "report.json"),
            *("index.npz", "manifest.json", "statistics.npz", "features.json", "dataset_info.json"),
            *(shard.name for shard in manifest.shards),
        ]
    )


def test_folds_without_an_actor_are_warned_of(built):
    assert any("no clip in actor fold" in warning for warning in built[1].warnings)


def test_workers_and_interruptions_do_not_change_a_byte(built, corpora, tmp_path):
    settings = BuildSettings()
    process(corpora, tmp_path, settings, skip=1)
    sealed = []

    class Interrupted(Pool):
        """Is interrupted when a shard stands and another does not."""

        def run(self, tasks, timeout_s=None):
            for task, result in super().run(tasks, timeout_s):
                yield task, result
                if isinstance(task, ShardPlan):
                    sealed.append(task.name)
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpora, tmp_path, settings, num_workers=1, make_pool=Interrupted)
    assert not (tmp_path / "manifest.json").exists()
    first_written = (tmp_path / sealed[0]).stat().st_mtime_ns

    report = build(corpora, tmp_path, settings, num_workers=1)

    assert report.clips_read == 0
    assert not report.was_finished
    assert (tmp_path / sealed[0]).stat().st_mtime_ns == first_written
    assert shards(tmp_path) == shards(built[0])
    tables = ("index.npz", "statistics.npz", "skipped.csv")
    for name in ("manifest.json", *tables, "report.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (built[0] / name).read_bytes()


def test_a_finished_data_set_is_left_as_it_is(built, corpora):
    out_dir, _ = built
    before = {path.name: path.stat().st_mtime_ns for path in out_dir.iterdir()}
    report = build(corpora, out_dir, BuildSettings(), num_workers=1)
    assert report.was_finished
    assert report.clips_written == 4
    assert {path.name: path.stat().st_mtime_ns for path in out_dir.iterdir()} == before


def test_other_settings_or_inputs_do_not_mix_with_a_data_set(built, corpora, tmp_path):
    out_dir, _ = built
    with pytest.raises(BuildError, match="settings num_classes was 6, is now 8"):
        build(corpora, out_dir, BuildSettings(num_classes=8), num_workers=1)
    changed = tmp_path / "crema_d"
    shutil.copytree(corpora["crema_d"], changed)
    (changed / "VideoFlash" / f"{FLV}.flv").touch()
    with pytest.raises(BuildError, match=f"inputs crema_d/{FLV}: .*written again"):
        build({**corpora, "crema_d": changed}, out_dir, BuildSettings(), num_workers=1)
    assert Manifest.load(str(out_dir)).num_classes == 6


def test_a_full_disk_stops_the_build_and_it_resumes_later(
    corpora, tmp_path, monkeypatch, in_process
):
    roots = {"crema_d": corpora["crema_d"]}

    def full(*_):
        raise OSError(28, "No space left on device")

    for owner, name in ((Workspace, "store_example"), (writer, "write_shard")):
        monkeypatch.setattr(owner, name, full)
        with pytest.raises(BuildError, match=r"No space left on device.*the same command resumes"):
            build(roots, tmp_path, BuildSettings(), **in_process)
        monkeypatch.undo()
    # The clip was kept when its shard could not be.
    report = build(roots, tmp_path, BuildSettings(), **in_process)
    assert (report.clips_read, report.clips_written) == (0, 1)


@pytest.mark.parametrize("what", ["clip", "shard", "list of shards", "entry of a shard"])
def test_what_is_damaged_or_gone_before_all_shards_stand_is_made_again(
    tmp_path, monkeypatch, what, in_process
):
    root, out_dir = tmp_path / "ravdess", tmp_path / "out"
    root.mkdir()
    rng = np.random.default_rng(0)
    for actor in (1, 2):
        samples = rng.normal(0, 3000, 8000).astype(np.int16)
        wavfile.write(root / f"03-01-03-01-01-01-{actor:02d}.wav", 16000, samples)
    options = {
        "settings": BuildSettings(modalities="audio", num_folds=2),
        **in_process,
    }
    build({"ravdess": root}, tmp_path / "whole", **options)
    works = writer.write_shard

    def break_off(target, plan, *arguments):
        if plan.fold == 1:
            raise OSError(28, "No space left on device")
        return works(target, plan, *arguments)

    monkeypatch.setattr(writer, "write_shard", break_off)
    with pytest.raises(BuildError, match="No space left"):
        build({"ravdess": root}, out_dir, **options)
    monkeypatch.undo()
    if what == "clip":
        (path,) = out_dir.rglob("*.npz")
        path.write_bytes(b"")
        with pytest.raises(
            BuildError, match=r"npz was damaged .*; the same command makes it again"
        ):
            build({"ravdess": root}, out_dir, **options)
    elif what == "shard":
        (path,) = out_dir.glob("fold-*")
        path.unlink()
    else:
        pattern = "shards.json" if what == "list of shards" else "shards/*.json"
        (path,) = (out_dir / ".work").glob(pattern)
        path.write_bytes(path.read_bytes()[:100])

    report = build({"ravdess": root}, out_dir, **options)

    assert report.clips_read == (2 if what == "clip" else 1)
    for path in (tmp_path / "whole").iterdir():
        assert (out_dir / path.name).read_bytes() == path.read_bytes()


def test_a_shard_that_another_worker_wrote_first_is_taken(corpora, tmp_path, here, in_process):
    roots = {"crema_d": corpora["crema_d"]}

    class Twice(here):
        """Seals each shard a second time, when its clips' own files are gone."""

        def run(self, tasks, timeout_s=None):
            for task, result in super().run(tasks, timeout_s):
                again = self._function(task) if isinstance(task, ShardPlan) else result
                yield task, again

    report = build(roots, tmp_path, BuildSettings(), **in_process | {"make_pool": Twice})
    assert report.clips_written == 1


def test_where_no_clip_survives_there_is_no_data_set(tmp_path, in_process):
    root = tmp_path / "ravdess"
    root.mkdir()
    (root / "01-01-05-01-01-01-01.mp4").write_text("not a film\n")
    with pytest.raises(BuildError, match=r"not one of 1 clips could be built:\n +1 unreadable\n"):
        build({"ravdess": root}, tmp_path / "out", BuildSettings(), **in_process)
    assert not list((tmp_path / "out").iterdir())


def test_files_in_a_folder_whose_name_is_no_utf_8_are_built_and_listed(
    tmp_path, encode, in_process
):
    folder = tmp_path / "ravdess" / os.fsdecode(b"Actor_\xff")
    encode(folder / "03-01-03-01-01-01-01.wav", audio_rate_hz=16000)
    (folder / "03-01-05-01-01-01-01.wav").write_text("no sound\n")
    out_dir = tmp_path / os.fsdecode(b"out-\xff")
    settings = BuildSettings(modalities="audio")
    report = build({"ravdess": tmp_path / "ravdess"}, out_dir, settings, **in_process)
    manifest = Manifest.load(str(out_dir))
    (entry,) = manifest.skipped
    assert entry["path"] == r"ravdess/Actor_\xff/03-01-05-01-01-01-01.wav"
    table = (out_dir / "skipped.csv").read_text(encoding="utf-8")
    assert f"\n{entry['path']},unreadable," in table
    assert len(manifest.index) == report.clips_written == 1


def test_a_clip_whose_picture_begins_long_after_its_sound_is_too_long(
    tmp_path, encode, drawn, in_process
):
    path = tmp_path / "ravdess" / "01-01-03-01-01-01-01.mp4"
    pictures = list(drawn.pictures(25, width=240, height=180))[:5]
    encode(path, picture=pictures, frame_rate=25, start_offset_s=600.0)
    with pytest.raises(
        BuildError,
        match=r"1 too long\n.*: picture and sound together last 60\d\.\d s, longer than 60 s",
    ):
        build(
            {"ravdess": tmp_path / "ravdess"},
            tmp_path / "out",
            BuildSettings(),
            **in_process,
        )


def test_landmarks_alone_need_no_sound(corpora, tmp_path, in_process):
    root = tmp_path / "ravdess"
    root.mkdir()
    shutil.copy(corpora["ravdess"] / f"{JOINED}.mp4", root)
    settings = BuildSettings(modalities="landmarks")
    build({"ravdess": root}, tmp_path / "out", settings, **in_process)
    (only,) = examples(tmp_path / "out")
    assert only.audio.shape == (0, 80)
    assert only.landmarks_valid.all()
    manifest = Manifest.load(str(tmp_path / "out"))
    assert [*manifest.modalities] == ["landmarks"]
    assert manifest.moments("landmarks", "actor", range(5)).count == len(only.landmarks)


def test_real_clips_have_a_face_in_every_frame(corpora_dir, tmp_path, in_process):
    roots = {corpus: corpora_dir / corpus for corpus in ("ravdess", "crema_d")}
    build(roots, tmp_path, BuildSettings(), **in_process)
    records = Manifest.load(str(tmp_path)).index.records
    assert [record.corpus for record in records] == ["crema_d"] * 4 + ["ravdess"] * 2
    for record in records:
        assert record.valid_frames["landmarks"] == record.frames["landmarks"] > 50
    skipped = {entry["path"]: entry for entry in Manifest.load(str(tmp_path)).skipped}
    surprised = "ravdess/Video_Speech_Actor_19/Actor_19/01-01-08-02-01-01-19.mp4"
    assert skipped.pop(surprised)["reason"] == "surprised is not among the 6 classes"
    assert len(skipped) == 960
    assert {entry["kind"] for entry in skipped.values()} == {"no picture", "duplicate take"}


@pytest.mark.parametrize(("num_classes", "wavs"), [(6, 832), (8, 960)])
def test_real_wavs_are_planned_for_audio_alone(corpora_dir, num_classes, wavs):
    settings = BuildSettings(modalities="audio", num_classes=num_classes)
    plan = plan_build({"ravdess": corpora_dir / "ravdess"}, settings)
    assert sum(str(clip.sound).endswith(".wav") for clip in plan.clips) == wavs


def test_real_wavs_are_built_to_librosa_s_own_features(corpora_dir, tmp_path, in_process):
    import librosa

    root = corpora_dir / "ravdess" / "Audio_Speech_Actors_01-24"
    settings = BuildSettings(modalities="audio", num_classes=8, limit=6)
    build({"ravdess": root}, tmp_path, settings, **in_process)
    found = examples(tmp_path)
    assert len(found) == 6
    for each in found:
        name = each.example_id.split("/")[1]
        rate_hz, samples = wavfile.read(root / f"Actor_{each.actor}" / f"{name}.wav")
        assert (rate_hz, samples.dtype) == (16000, np.int16)
        power = librosa.feature.melspectrogram(
            y=samples.astype(np.float32) / 32768,
            sr=16000,
            n_fft=512,
            hop_length=160,
            n_mels=80,
            fmin=50,
            fmax=8000,
        )
        expected = librosa.power_to_db(power, ref=1.0, top_db=None).T
        np.testing.assert_allclose(each.audio, expected, atol=schema.AUDIO_STEP_DB / 2 + 1e-3)
        assert each.landmarks.shape == (0, NUM_LANDMARKS, 3)


def test_workers_do_without_tensorflow(built):
    out_dir, _ = built
    kinds = {path.name.split("-")[0] for path in loaded_dir(out_dir).iterdir()}
    assert kinds == {"Clip", "ShardPlan"}
    for path in loaded_dir(out_dir).iterdir():
        loaded = set(path.read_text().split())
        assert not loaded & {"tensorflow", "jax"}
        assert "numpy" in loaded
