from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import preprocess
from emotion_tfdata.dataset.manifest import Manifest
from preprocess import Clip
from preprocess.api import BuildReport
from preprocess.builder.building import build
from preprocess.builder.plan import AudioSettings, BuildError, BuildSettings, plan_build
from preprocess.clip import media
from preprocess.clip.example import make_example
from preprocess.clip.media import Part
from preprocess.corpora import CorpusError, clips_csv, crema_d, ravdess
from preprocess.drawn import sample

HEARD = BuildSettings(modalities="audio", num_folds=2)


def write_list(path: Path, rows: list[dict[str, object]], separator: str = ",") -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, names, delimiter=separator)
        lines.writeheader()
        lines.writerows(rows)
    return path


def write_sound(path: Path, seconds: float = 0.5, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-9000, 9000, int(16000 * seconds), np.int16)
    wavfile.write(path, 16000, samples)
    return samples


@pytest.fixture
def sounds(tmp_path):
    """Two emotions of each of four actors, listed by a csv with a corpus's own words."""
    rows = []
    for number in range(8):
        write_sound(tmp_path / f"voices/{number}.wav", seed=number)
        emotion = ("Anger", "joy")[number % 2]
        row = {"audio": f"voices/{number}.wav", "actor": f"P{number // 2}", "emotion": emotion}
        rows.append(row)
    return write_list(tmp_path / "clinic.csv", rows), rows


def test_real_clips_without_their_names_give_the_arrays_that_their_corpus_s_reader_gives(
    tmp_path, corpora_dir
):
    own = {}
    rows = []
    for reader in (crema_d, ravdess):
        clips = reader.scan(corpora_dir / reader.CORPUS, "both").clips
        clip = next(clip for clip in clips if clip.emotion != "surprised")
        name = f"clip{len(rows):04}{Path(clip.picture).suffix}"
        shutil.copyfile(clip.picture, tmp_path / name)
        about = {of: getattr(clip, of) for of in ("corpus", "actor", "emotion")}
        rows.append({"video": name, **about})
        own[name] = clip
    listed = clips_csv.scan(write_list(tmp_path / "clips.csv", rows), "both").clips
    assert [clip.name for clip in listed] == ["clip0000", "clip0001"]
    for clip in listed:
        expected = make_example(own[Path(clip.picture).name], AudioSettings())
        found = make_example(clip, AudioSettings())
        for name in ("audio", "landmarks", "landmarks_valid", "head"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert (found.corpus, found.actor, found.emotion) == (
            *(expected.corpus, expected.actor, expected.emotion),
        )


def test_a_list_is_built_with_its_own_classes_and_says_so_in_the_manifest(
    sounds, tmp_path, in_process
):
    path, rows = sounds
    settings = BuildSettings(modalities="audio", num_folds=2, classes=("joy", "angry", "bored"))
    report = build({}, tmp_path / "out", settings, tables=[path], **in_process)
    assert report.clips_written == len(rows)
    manifest = Manifest.load(str(tmp_path / "out"))
    assert manifest.classes == ("joy", "angry", "bored")
    assert manifest.index.corpus_names == ("clinic",)
    assert sorted(manifest.index.emotion_names) == ["angry", "joy"]
    assert build({}, tmp_path / "out", settings, tables=[path], **in_process).was_finished


def test_a_clip_whose_sound_is_not_certain_is_named_in_manifest_and_report(
    tmp_path, corpora_dir, ffmpeg, in_process
):
    source = min(corpora_dir.glob("crema_d/VideoFlash/*.flv"))
    ffmpeg("-i", source, "-t", 0.5, "-c:v", "mjpeg", "-c:a", "ac3", tmp_path / "a.avi")
    listed = write_list(tmp_path / "own.csv", [{"video": "a.avi", "actor": "P", "emotion": "sad"}])
    build({}, tmp_path / "out", BuildSettings(num_folds=2), tables=[listed], **in_process)
    line = f"1 clip: {media.AVI_DELAY}: own/a"
    assert line in Manifest.load(str(tmp_path / "out")).settings["notes"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert line in report["notes"]
    assert report["clip_notes"] == {"own/a": [media.AVI_DELAY]}


def test_what_the_list_says_of_a_clip_is_part_of_the_build(sounds, tmp_path, in_process):
    path, rows = sounds
    build({}, tmp_path / "out", HEARD, tables=[path], **in_process)
    rows[0]["actor"] = "somebody else"
    write_list(path, rows)
    with pytest.raises(BuildError, match="holds another build: inputs clinic/voices_0"):
        build({}, tmp_path / "out", HEARD, tables=[path], **in_process)


def test_lists_and_corpora_are_built_together_and_a_name_is_used_once(sounds, tmp_path):
    path, _ = sounds
    write_sound(tmp_path / "crema/1001_DFA_ANG_XX.wav")
    row = {"audio": "voices/0.wav", "actor": "1", "emotion": "sad", "corpus": "crema_d"}
    same = [{**row, "name": "1001_DFA_ANG_XX"}, {**row, "name": "other"}]
    other = write_list(tmp_path / "more.csv", same, separator=";")
    plan = plan_build({"crema_d": tmp_path / "crema"}, HEARD, [path, other])
    assert len(plan.clips) == 1 + 8 + 1
    ((kind, reason),) = [(entry.kind, entry.reason) for entry in plan.skipped]
    assert (kind, reason) == ("duplicate name", "another clip is called crema_d/1001_DFA_ANG_XX")


def test_each_bad_line_is_skipped_by_its_number_and_the_others_are_built(sounds, tmp_path):
    _, rows = sounds
    good = rows[0]
    write_sound(tmp_path / "a.txt")
    bad = [
        ({**good, "audio": ""}, "neither video nor audio"),
        ({**good, "audio": "gone.wav"}, "audio gone.wav is not there"),
        ({**good, "audio": "a.txt"}, "audio a.txt: not named as audio is"),
        ({**good, "actor": " "}, "actor is empty"),
        ({**good, "emotion": "bored"}, "'bored' is none of the classes neutral, happy"),
        ({**good, "emotion": "surprised"}, "'surprised' is none of the classes"),
        ({**good, "emotion": ""}, "'' is none of the classes"),
        ({**good, "start_s": "soon"}, "start_s 'soon' is no number of seconds"),
        ({**good, "start_s": "nan"}, "start_s nan is not a time"),
        ({**good, "start_s": "2", "end_s": "1"}, "end_s 1 is not after start_s 2"),
        ({**good, "name": "../../etc"}, "has a slash"),
        ({**good, "name": "n" * 300}, "longer than 200 bytes"),
        ({**good}, "clips.csv:2 is clips/voices_0 already"),
    ]
    path = write_list(tmp_path / "clips.csv", [good, *(row for row, _ in bad)])
    path.write_text(path.read_text() + "one,value,too,many,in,this,line,of,it\n", encoding="utf-8")
    scan = clips_csv.scan(path, "audio")
    assert [clip.name for clip in scan.clips] == ["voices_0"]
    assert [entry.path for entry in scan.skipped] == [f"clips.csv:{n + 3}" for n in range(14)]
    for entry, (_, reason) in zip(scan.skipped, bad, strict=False):
        assert reason in entry.reason
    assert "9 values, its head has" in scan.skipped[-1].reason
    sights = clips_csv.scan(path, "both")
    assert {entry.kind for entry in sights.skipped} >= {"no picture"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no column video or audio, actor, emotion; its head has nothing"),
        (b"video,emotion\na.mp4,sad\n", "no column actor; its head has video, emotion"),
        (b"video,actor,emotion\n", "lists no clips"),
        (b"video,actor,actor,emotion\n", "two columns actor"),
        (b"video,actor,emotion\n\xe4.mp4,1,sad\n", "not in UTF-8"),
        (b'video,actor,emotion\n"a.mp4,1,sad\n', "is not a csv"),
    ],
)
def test_a_file_that_is_no_list_of_clips_is_refused(tmp_path, content, reason):
    path = tmp_path / "clips.csv"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=reason):
        clips_csv.scan(path, "audio")


def test_a_list_that_is_not_there_is_told_in_one_line(tmp_path, in_process):
    with pytest.raises(BuildError, match=r"--clips: .*gone.csv: cannot be read \(No such file"):
        build({}, tmp_path / "out", HEARD, tables=[tmp_path / "gone.csv"], **in_process)


@pytest.mark.parametrize("ending", ["wav", "m4a", "mp3"])
def test_a_part_is_what_ffmpeg_cuts_out_of_the_decoded_whole(tmp_path, ending):
    path = tmp_path / f"long.{ending}"
    write_sound(tmp_path / "raw.wav", 8.0)
    command = ["ffmpeg", "-v", "error", "-y", "-i"]
    if ending != "wav":
        subprocess.run([*command, tmp_path / "raw.wav", path], check=True)
    else:
        os.replace(tmp_path / "raw.wav", path)
    cut = [*command, path, "-af", "atrim=start=5.25:end=6.5", "-c:a", "pcm_f32le"]
    subprocess.run([*cut, tmp_path / "cut.wav"], check=True)
    _, expected = wavfile.read(tmp_path / "cut.wav")
    found = media.read_sound(path, part=Part(5.25, 6.5))
    assert found.samples.shape == expected.shape
    np.testing.assert_allclose(found.samples, expected, atol=1e-6)
    with pytest.raises(media.MediaError, match="before end_s=20"):
        media.read_sound(path, part=Part(6.0, 20.0))
    with pytest.raises(media.MediaError, match="nothing from start_s=30"):
        media.read_sound(path, part=Part(30.0))


def test_pictures_of_a_part_are_those_of_the_whole_shown_in_it(tmp_path):
    path = tmp_path / "long.mp4"
    source = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=6"]
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "40", "-bf", "2"]
    subprocess.run(["ffmpeg", "-v", "error", *source, *encode, path], check=True)
    whole = list(media.read_pictures(path))
    part = list(media.read_pictures(path, part=Part(4.0, 5.0)))
    inside = [picture for picture in whole if 4.0 - 1e-6 <= picture.time_s < 5.0 - 1e-6]
    assert [picture.time_s for picture in part] == [picture.time_s for picture in inside]
    for one, other in zip(part, inside, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)


def test_a_clip_behind_a_url_gives_what_the_file_gives(sounds, tmp_path):
    _, rows = sounds
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        remote = [
            {**rows[0], "audio": f"{base}/voices/0.wav"},
            {**rows[0], "audio": f"{base}/no.wav"},
        ]
        path = write_list(tmp_path / "remote.csv", remote)
        scan = clips_csv.scan(path, "audio")
        (clip,) = scan.clips
        assert clip.name == "0"
        assert "no.wav: is not there" in scan.skipped[0].reason
        (here,) = clips_csv.scan(write_list(tmp_path / "here.csv", rows[:1]), "audio").clips
        np.testing.assert_array_equal(
            make_example(clip, AudioSettings()).audio, make_example(here, AudioSettings()).audio
        )
        server.shutdown()


def test_the_script_in_readme_lists_savee_and_mead(project_dir, tmp_path):
    text = (project_dir / "preprocess" / "README.md").read_text()
    (script,) = re.findall(r"```py\n(import csv.*?)```", text, re.DOTALL)
    names = (
        *("AudioVisualClip/DC/a1.avi", "AudioVisualClip/KL/sa15.avi", "AudioVisualClip/JE/su2.avi"),
        *(
            "MEAD/M003/video/front/angry/level_1/001.mp4",
            "MEAD/W009/video/front/fear/level_3/7.mp4",
        ),
        "MEAD/W009/video/down/fear/level_3/7.mp4",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"media")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    savee = clips_csv.scan(tmp_path / "savee.csv", "both")
    mead = clips_csv.scan(tmp_path / "mead.csv", "both")
    found = [(c.example_id, c.actor, c.emotion) for c in (*savee.clips, *mead.clips)]
    assert found == [
        ("savee/AudioVisualClip_DC_a1", "DC", "angry"),
        ("savee/AudioVisualClip_KL_sa15", "KL", "sad"),
        ("mead/MEAD_M003_video_front_angry_level_1_001", "M003", "angry"),
        ("mead/MEAD_W009_video_front_fear_level_3_7", "W009", "fearful"),
    ]
    assert [entry.kind for entry in savee.skipped] == ["emotion"]  # surprise


def test_a_build_from_python_is_the_command_s(sounds, tmp_path, in_process, monkeypatch):
    path, rows = sounds
    monkeypatch.chdir(tmp_path)
    clips = [Clip(corpus="clinic", **row) for row in rows]
    bad = Clip(audio="gone.wav", actor="1", emotion="sad")
    report = build({}, tmp_path / "a", HEARD, tables=[[*clips, bad]], **in_process)
    assert report.clips_written == len(clips)
    assert "clips[8]: audio gone.wav is not there" in str(report)
    build({}, tmp_path / "b", HEARD, tables=[path], **in_process)
    one, other = (Manifest.load(str(tmp_path / name)) for name in "ab")
    assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in other.shards]


def test_the_python_call_plans_builds_and_says_in_one_line_what_is_wrong(sounds, tmp_path):
    path, _ = sounds
    estimate = preprocess.build(None, path, HEARD, num_workers=1, dry_run=True)
    assert "would build    8 clips (8 of clinic)" in str(estimate)
    report = preprocess.build(tmp_path / "out", [path], HEARD, num_workers=1)
    assert isinstance(report, BuildReport)
    assert report.clips_written == 8
    with pytest.raises(preprocess.BuildError, match="nothing to build from"):
        preprocess.build(tmp_path / "out")
    with pytest.raises(preprocess.BuildError, match="runner must be local or ray"):
        preprocess.build(tmp_path / "out", path, runner="slurm")
    with pytest.raises(AttributeError, match="no attribute 'built'"):
        preprocess.built  # noqa: B018


def test_a_recording_behind_a_url_is_fetched_once_for_all_its_clips(tmp_path):
    write_sound(tmp_path / "long.wav", 2.0)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.headers["Range"])
            super().do_GET()

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/long.wav"
        rows = [
            {"audio": url, "actor": i, "emotion": "sad", "start_s": 0.3 * i, "end_s": 0.3 * i + 0.5}
            for i in range(4)
        ]
        path = write_list(tmp_path / "remote.csv", rows)
        report = build({}, tmp_path / "out", HEARD, tables=[path], num_workers=2)
        server.shutdown()
    assert report.clips_written == 4
    assert len(asked) == 1, asked


def test_where_memory_or_a_disk_fails_while_planning_that_is_one_line(sounds, monkeypatch):
    path, _ = sounds
    monkeypatch.setattr(clips_csv, "_rows", lambda path: bytearray(1 << 62))
    with pytest.raises(BuildError, match="no memory is left to list the clips; make room"):
        plan_build({}, HEARD, [path])

    def broken(folder):
        raise OSError(errno.EIO, "Input/output error", str(folder))

    monkeypatch.undo()
    monkeypatch.setattr(sample, "find_marker", broken)
    with pytest.raises(BuildError, match=r"--clips: .*Input/output error"):
        plan_build({}, HEARD, [path])


def test_a_clip_that_needs_more_memory_than_there_is_is_named(sounds, tmp_path, in_process):
    path, _ = sounds
    settings = dataclasses.replace(HEARD, audio_features="tests.preprocess.own_extractors:Greedy")
    with pytest.raises(BuildError, match="needs more memory than --worker_memory_mb gives"):
        build({}, tmp_path, settings, tables=[path], **in_process)
