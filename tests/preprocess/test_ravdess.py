"""Which RAVDESS files make a clip, and why the others do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preprocess.corpora import CorpusError, ravdess

TAKE = "01-03-02-01-02-12"
AUDIO = f"Audio_Speech_Actors_01-24/Actor_12/03-{TAKE}.wav"
BOTH = f"Video_Speech_Actor_12/Actor_12/01-{TAKE}.mp4"
PICTURE = f"Video_Speech_Actor_12/Actor_12/02-{TAKE}.mp4"


def scan(root, names, modalities="both"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"media")
    return ravdess.scan(root, modalities)


def test_a_name_tells_the_facts(tmp_path):
    (clip,) = scan(tmp_path, [BOTH]).clips
    assert clip.example_id == f"ravdess/01-{TAKE}"
    assert (clip.corpus, clip.actor, clip.emotion) == ("ravdess", "12", "happy")
    assert (clip.intensity, clip.sentence) == ("strong", "01")
    assert clip.files == (tmp_path / BOTH,)


@pytest.mark.parametrize(
    ("files", "modalities", "picture", "sound", "duplicates"),
    [
        ((BOTH, PICTURE, AUDIO), "both", BOTH, BOTH, {PICTURE, AUDIO}),
        ((PICTURE, AUDIO), "both", PICTURE, AUDIO, set()),
        ((BOTH, PICTURE, AUDIO), "audio", None, AUDIO, {BOTH, PICTURE}),
        ((BOTH, PICTURE), "audio", None, BOTH, {PICTURE}),
        ((BOTH, PICTURE, AUDIO), "landmarks", BOTH, None, {PICTURE, AUDIO}),
        ((PICTURE, AUDIO), "landmarks", PICTURE, None, {AUDIO}),
    ],
)
def test_the_files_of_a_take_are_one_clip(tmp_path, files, modalities, picture, sound, duplicates):
    found = scan(tmp_path, files, modalities)
    (clip,) = found.clips
    assert clip.picture == (str(tmp_path / picture) if picture else None)
    assert clip.sound == (str(tmp_path / sound) if sound else None)
    assert clip.name == clip.files[0].stem
    assert {entry.path for entry in found.skipped} == {f"ravdess/{name}" for name in duplicates}
    for entry in found.skipped:
        assert entry.kind == "duplicate take"
        assert entry.reason == f"duplicate take of ravdess/{picture or sound}"


@pytest.mark.parametrize(
    ("name", "modalities", "kind", "hint"),
    [
        (AUDIO, "both", "no picture", "sound without picture; --modalities=audio builds it"),
        (AUDIO, "landmarks", "no picture", "sound without picture; --modalities=audio builds it"),
        (PICTURE, "both", "no sound", "picture without sound; --modalities=landmarks builds it"),
        (PICTURE, "audio", "no sound", "picture without sound; --modalities=landmarks builds it"),
    ],
)
def test_a_take_that_lacks_what_is_built_says_what_would_build_it(
    tmp_path, name, modalities, kind, hint
):
    found = scan(tmp_path, [name], modalities)
    assert not found.clips
    assert [(e.path, e.kind, e.reason) for e in found.skipped] == [(f"ravdess/{name}", kind, hint)]


def test_songs_and_second_copies_are_skipped_and_other_files_passed_over(tmp_path):
    song = "Video_Song_Actor_12/Actor_12/01-02-03-02-01-02-12.mp4"
    names = [BOTH, f"copy/01-{TAKE}.mp4", song, "README.txt", f"__MACOSX/._01-{TAKE}.mp4"]
    found = scan(tmp_path, names)
    assert [Path(clip.picture) for clip in found.clips] == [tmp_path / BOTH]
    assert [(entry.path, entry.kind) for entry in found.skipped] == [
        (f"ravdess/{song}", "song"),
        (f"ravdess/copy/01-{TAKE}.mp4", "duplicate file"),
    ]
    assert found.skipped[1].reason == f"the same name as ravdess/{BOTH}"


def test_a_sound_or_video_made_of_a_file_does_not_take_its_place(tmp_path):
    own = [BOTH, PICTURE, AUDIO]
    made = [f"A/01-{TAKE}.wav", f"A/02-{TAKE}.WAV", f"A/03-{TAKE}.mp4"]
    found = scan(tmp_path, [*own, *made])
    (clip,) = found.clips
    assert clip.files == (tmp_path / BOTH,)
    assert [(e.path, e.reason) for e in found.skipped if e.kind == "not the corpus's"] == [
        (f"ravdess/{made[0]}", "RAVDESS's files named 01- are .mp4"),
        (f"ravdess/{made[1]}", "RAVDESS's files named 02- are .mp4"),
        (f"ravdess/{made[2]}", "RAVDESS's files named 03- are .wav"),
    ]
    assert len(found.skipped) == 5


def test_one_recording_under_two_names_is_noted_where_both_are_built(tmp_path):
    one, other = "03-01-03-01-02-01-07.wav", "03-01-03-01-02-02-07.wav"
    assert scan(tmp_path, [one], "audio").notes == ()
    (note,) = scan(tmp_path, [other], "audio").notes
    assert (
        note == "ravdess: 01-03-01-02-01-07 and 01-03-01-02-02-07 are one recording under two names"
    )


def test_a_folder_that_is_not_ravdess_says_so(tmp_path):
    with pytest.raises(CorpusError, match="nowhere: no such folder"):
        ravdess.scan(tmp_path / "nowhere", "both")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="empty is empty"):
        ravdess.scan(tmp_path / "empty", "both")
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="file is a file, not a folder"):
        ravdess.scan(tmp_path / "file", "both")
    with pytest.raises(CorpusError, match=r"is not RAVDESS: no file in it is named as 01-01-03"):
        scan(tmp_path / "other", ["VideoFlash/1001_DFA_ANG_XX.flv"])


def test_folders_and_files_behind_links_are_found_each_once(tmp_path):
    store = tmp_path / "store"
    scan(store, [BOTH, PICTURE, AUDIO])
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "linked").symlink_to(store / "Video_Speech_Actor_12")
    (root / "again").symlink_to(store / "Video_Speech_Actor_12")
    (root / f"03-{TAKE}.wav").symlink_to(store / AUDIO)
    (store / "Video_Speech_Actor_12" / "up").symlink_to(root)
    found = ravdess.scan(root, "both")
    assert [Path(clip.picture) for clip in found.clips] == [
        root / "again" / "Actor_12" / f"01-{TAKE}.mp4"
    ]
    assert [(entry.path, entry.kind) for entry in found.skipped] == [
        (f"ravdess/03-{TAKE}.wav", "duplicate take"),
        (f"ravdess/again/Actor_12/02-{TAKE}.mp4", "duplicate take"),
    ]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    scan(tmp_path, [BOTH])
    closed = tmp_path / "Video_Speech_Actor_12" / "Actor_12"
    works = os.scandir

    def scandir(path):  # root may read what is closed to all
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return works(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(CorpusError, match=rf"^{closed}: cannot be read \(Permission denied\)$"):
        ravdess.scan(tmp_path, "both")


def test_real_ravdess_has_three_videos_and_960_wavs(corpora_dir):
    assert len(ravdess.scan(corpora_dir / "ravdess", "both").clips) == 3
    audio = ravdess.scan(corpora_dir / "ravdess", "audio").clips
    assert sum(str(clip.sound).endswith(".wav") for clip in audio) == 960


def test_every_file_is_built_or_listed_or_counted(tmp_path):
    scan(tmp_path, [BOTH.replace(".mp4", ".MP4"), "notes.txt", f"03-{TAKE}.flac"])
    scan(tmp_path, [f"03-{TAKE}.mp3", f"03-{TAKE} (1).wav", f"01-{TAKE}.csv"])
    found = ravdess.scan(tmp_path, "both")
    assert len(found.clips) == 1
    assert [(entry.path, entry.kind) for entry in found.skipped] == [
        (f"ravdess/03-{TAKE} (1).wav", "unknown name"),
        (f"ravdess/03-{TAKE}.flac", "not the corpus's"),
        (f"ravdess/03-{TAKE}.mp3", "not the corpus's"),
    ]
    assert found.counted == ("ravdess: files that are no clips: 1 csv, 1 txt",)


def test_records_of_tracking_are_counted_too(tmp_path):
    scan(tmp_path / "r", [AUDIO])
    for name in (f"01-{TAKE}.csv", "01-01-03-02-01-02-13.csv", "words.csv"):
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_bytes(b"rows")
    found = ravdess.scan(tmp_path / "r", "both", tmp_path / "t")
    assert len(found.clips) == 1
    assert found.counted == (
        "ravdess: records of tracking without their clips: 1 csv",
        "ravdess: files that are no records of tracking: 1 csv",
    )
