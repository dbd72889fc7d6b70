"""Which CREMA-D files make a clip, and why the others do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from preprocess.corpora import CorpusError, crema_d

ENDINGS = {"flv": "VideoFlash", "wav": "AudioWAV", "mp3": "AudioMP3"}


def scan(root, names, modalities="both"):
    for name in names:
        path = root / ENDINGS[name.rsplit(".")[-1]] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"media")
    return crema_d.scan(root, modalities)


def test_a_name_tells_the_facts(tmp_path):
    (clip,) = scan(tmp_path, ["1091_IEO_FEA_HI.flv"]).clips
    assert clip.example_id == "crema_d/1091_IEO_FEA_HI"
    assert (clip.corpus, clip.actor, clip.emotion) == ("crema_d", "1091", "fearful")
    assert (clip.intensity, clip.sentence) == ("high", "IEO")


@pytest.mark.parametrize(
    ("modalities", "endings", "picture", "sound"),
    [
        ("both", ("flv", "wav", "mp3"), "flv", "flv"),
        ("landmarks", ("flv", "wav", "mp3"), "flv", None),
        ("audio", ("flv", "wav", "mp3"), None, "wav"),
        ("audio", ("flv", "mp3"), None, "mp3"),
        ("audio", ("flv",), None, "flv"),
    ],
)
def test_a_clip_is_made_from_the_best_file_there_is(tmp_path, modalities, endings, picture, sound):
    found = scan(tmp_path, [f"1001_DFA_ANG_XX.{ending}" for ending in endings], modalities)
    (clip,) = found.clips
    assert clip.name == "1001_DFA_ANG_XX"
    assert (clip.picture and Path(clip.picture).suffix[1:]) == picture
    assert (clip.sound and Path(clip.sound).suffix[1:]) == sound
    assert found.skipped == ()


@pytest.mark.parametrize("modalities", ["both", "landmarks"])
def test_sound_alone_says_what_would_build_it(tmp_path, modalities):
    found = scan(tmp_path, ["1001_DFA_ANG_XX.wav", "1001_DFA_ANG_XX.mp3"], modalities)
    assert not found.clips
    (entry,) = found.skipped
    assert entry.kind == "no picture"
    assert entry.reason == "sound without picture; --modalities=audio builds it"


def test_known_bad_clips_are_skipped_by_name(tmp_path):
    bad = ["1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD"]
    names = [f"{stem}.{ending}" for stem in bad for ending in ENDINGS]
    found = scan(tmp_path, [*names, "1001_DFA_ANG_XX.flv"])
    assert [clip.name for clip in found.clips] == ["1001_DFA_ANG_XX"]
    assert {entry.path for entry in found.skipped} == {
        f"crema_d/VideoFlash/{stem}.flv" for stem in bad
    }
    assert {entry.kind for entry in found.skipped} == {"known bad"}
    assert all(entry.reason.startswith("known bad: ") for entry in found.skipped)
    # The wav of one of them is whole.
    audio = crema_d.scan(tmp_path, "audio")
    assert [clip.name for clip in audio.clips] == ["1001_DFA_ANG_XX", "1076_MTI_NEU_XX"]


def test_one_sound_under_two_labels_is_noted_where_both_are_built(tmp_path):
    pair = ["1006_TIE_HAP_XX.flv", "1006_TIE_NEU_XX.flv"]
    assert scan(tmp_path, pair).notes == (
        "crema_d: 1006_TIE_HAP_XX and 1006_TIE_NEU_XX have the same sound under two labels",
    )
    assert crema_d.scan(tmp_path, "landmarks").notes == ()
    (tmp_path / "VideoFlash" / pair[0]).unlink()
    assert crema_d.scan(tmp_path, "both").notes == ()


def test_a_second_copy_is_skipped(tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "1001_DFA_ANG_XX.flv").write_bytes(b"media")
    found = scan(tmp_path, ["1001_DFA_ANG_XX.flv"])
    assert len(found.clips) == 1
    assert [(entry.path, entry.kind, entry.reason) for entry in found.skipped] == [
        (
            "crema_d/again/1001_DFA_ANG_XX.flv",
            "duplicate file",
            "the same name as crema_d/VideoFlash/1001_DFA_ANG_XX.flv",
        )
    ]


def test_a_folder_that_is_not_crema_d_says_so(tmp_path):
    (tmp_path / "01-01-03-01-02-01-12.mp4").write_bytes(b"media")
    with pytest.raises(CorpusError, match=r"is not CREMA-D: no file in it is named as 1001_DFA"):
        crema_d.scan(tmp_path, "both")


def test_capital_endings_are_endings_and_a_converted_copy_stands_for_a_missing_flv(tmp_path):
    names = ["1001_DFA_ANG_XX.FLV", "1002_DFA_ANG_XX.mp4", "1003_DFA_ANG_XX.flv"]
    for name in [*names, "1003_DFA_ANG_XX.mp4", "1002_DFA_ANG_XX.wav"]:
        (tmp_path / name).write_bytes(b"media")
    found = crema_d.scan(tmp_path, "both")
    assert [clip.files for clip in found.clips] == [(tmp_path / name,) for name in names]
    assert found.skipped == ()
    assert found.notes == (
        "crema_d: built from converted copies, of which no checksum is known: 1002_DFA_ANG_XX.mp4",
    )
    assert found.counted == ("crema_d: copies of clips' files, not read: 1 mp4, 1 wav",)


def test_every_file_is_built_or_listed_or_counted(tmp_path):
    scan(tmp_path, ["1001_DFA_ANG_XX.flv"])
    for name in ("1001_DFA_ANG_XX (1).flv", "holiday.MOV"):
        (tmp_path / name).write_bytes(b"media")
    for name in ("README", "a.txt", "b.TXT", "._1001_DFA_ANG_XX.flv", "1001_DFA_ANG_XX.json"):
        (tmp_path / name).write_bytes(b"words")
    found = crema_d.scan(tmp_path, "both")
    assert [(entry.path, entry.kind) for entry in found.skipped] == [
        ("crema_d/1001_DFA_ANG_XX (1).flv", "unknown name"),
        ("crema_d/holiday.MOV", "unknown name"),
    ]
    (counted,) = found.counted
    assert counted.startswith("crema_d: files that are no clips: 2 txt, ")
    assert set(counted.rpartition(": ")[2].split(", ")) == {
        *("1 without ending", "2 txt", "1 ._*", "1 json"),
    }
