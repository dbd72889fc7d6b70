"""What is to be built: settings, classes, folds, and files that are not even tried."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from emotion_tfdata.dataset.folds import actor_folds
from emotion_tfdata.labels import EMOTIONS, class_index
from preprocess.builder.plan import BuildError, BuildSettings, plan_build, spread_over_actors
from preprocess.clip.audio import AudioSettings
from preprocess.corpora import Clip
from preprocess.drawn import sample


def put(root, *names, content=b"media"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def roots(tmp_path):
    """Ten actors of each corpus, of RAVDESS with each emotion."""
    ravdess = put(
        tmp_path / "r",
        *(f"01-01-{e:02d}-01-01-01-{a:02d}.mp4" for e in range(1, 9) for a in range(1, 11)),
    )
    crema_d = put(
        tmp_path / "c",
        *(f"{a}_DFA_{e}_XX.flv" for e in ("ANG", "NEU") for a in range(1001, 1011)),
    )
    return {"ravdess": ravdess, "crema_d": crema_d}


def test_clips_stand_in_order_of_their_ids_with_folds_of_both_protocols(roots):
    plan = plan_build(roots, BuildSettings())
    ids = [clip.example_id for clip in plan.clips]
    assert ids == sorted(ids)
    assert len(ids) == 10 * 7 + 10 * 2
    folds = actor_folds(((clip.corpus, clip.actor) for clip in plan.clips), 5)
    for clip in plan.clips:
        assert plan.actor_folds[clip.corpus, clip.actor] == folds[clip.corpus, clip.actor]
    per_fold = [list(plan.random_folds.values()).count(fold) for fold in range(5)]
    assert per_fold == [18] * 5
    angry = [plan.random_folds[clip.example_id] for clip in plan.clips if clip.emotion == "angry"]
    assert [angry.count(fold) for fold in range(5)] == [4] * 5


def test_emotions_outside_the_classes_are_skipped_by_name(roots):
    six = plan_build(roots, BuildSettings(num_classes=6))
    assert {(entry.kind, entry.reason) for entry in six.skipped} == {
        ("emotion", "surprised is not among the 6 classes")
    }
    assert len(six.skipped) == 10
    eight = plan_build(roots, BuildSettings(num_classes=8))
    assert not eight.skipped
    assert len(eight.clips) == len(six.clips) + 10


def test_what_is_no_media_is_skipped_before_it_is_decoded(roots):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    put(roots["crema_d"], "1011_DFA_ANG_XX.flv", content=pointer)
    put(roots["crema_d"], "1012_DFA_ANG_XX.flv", content=b"")
    skipped = plan_build({"crema_d": roots["crema_d"]}, BuildSettings()).skipped
    assert [(entry.path, entry.kind) for entry in skipped] == [
        ("crema_d/1011_DFA_ANG_XX.flv", "lfs pointer"),
        ("crema_d/1012_DFA_ANG_XX.flv", "unreadable"),
    ]
    assert "git lfs pull" in skipped[0].reason
    assert skipped[1].reason == "the file is empty"


def test_a_link_that_leads_nowhere_is_skipped(roots, tmp_path):
    (roots["crema_d"] / "1011_DFA_ANG_XX.flv").symlink_to(tmp_path / "not fetched")
    (entry,) = plan_build({"crema_d": roots["crema_d"]}, BuildSettings()).skipped
    assert (entry.path, entry.kind) == ("crema_d/1011_DFA_ANG_XX.flv", "unreadable")
    assert entry.reason == "cannot be read (No such file or directory)"


def test_a_limit_is_spread_over_the_actors_of_each_corpus(roots):
    plan = plan_build(roots, BuildSettings(limit=5))
    for corpus in ("ravdess", "crema_d"):
        clips = [clip for clip in plan.clips if clip.corpus == corpus]
        assert len(clips) == 5
        assert len({clip.actor for clip in clips}) == 5
        assert {plan.actor_folds[clip.corpus, clip.actor] for clip in clips} == set(range(5))


@pytest.mark.parametrize("limit", [8, 10, 14, 35])
def test_a_limit_takes_each_actor_equally_whatever_its_number(roots, limit):
    plan = plan_build({"ravdess": roots["ravdess"]}, BuildSettings(limit=limit))
    per_actor = Counter(clip.actor for clip in plan.clips)
    assert sum(per_actor.values()) == limit
    assert len(per_actor) == min(limit, 10)
    assert max(per_actor.values()) - min(per_actor.values()) <= 1
    assert {class_index(clip.emotion, 6) for clip in plan.clips} == set(range(6))
    ids = [clip.example_id for clip in plan.clips]
    assert ids == sorted(ids)


def takes(counts):
    """Clips of actors that each show emotions so many times."""
    return [
        Clip(
            "ravdess", f"{emotion}-{take}-{actor:02d}", f"{actor:02d}", emotion, "", "", None, None
        )
        for actor, by_emotion in enumerate(counts)
        for emotion, count in by_emotion.items()
        for take in range(count)
    ]


@given(
    counts=st.lists(
        st.dictionaries(st.sampled_from(EMOTIONS), st.integers(1, 4), min_size=1), min_size=1
    ),
    limit=st.integers(1, 100),
    num_classes=st.sampled_from([6, 8]),
    random=st.randoms(use_true_random=False),
)
def test_actors_and_their_emotions_are_as_equal_as_a_limit_allows(
    counts, limit, num_classes, random
):
    clips = [clip for clip in takes(counts) if class_index(clip.emotion, num_classes) is not None]
    assume(clips)
    random.shuffle(clips)
    chosen = spread_over_actors(clips, limit, num_classes)

    assert len({clip.name for clip in chosen}) == len(chosen) == min(limit, len(clips))
    assert chosen == spread_over_actors(sorted(clips, key=lambda c: c.name), limit, num_classes)
    assert chosen == spread_over_actors(clips, limit + 1, num_classes)[: len(chosen)]

    has, gets = (Counter(clip.actor for clip in some) for some in (clips, chosen))
    most = max(gets.values())
    assert all(gets[actor] >= min(most - 1, count) for actor, count in has.items())

    has, gets = (
        Counter((clip.actor, class_index(clip.emotion, num_classes)) for clip in some)
        for some in (clips, chosen)
    )
    for (actor, _), count in gets.items():
        for (other, label), available in has.items():
            if other == actor:
                assert gets[actor, label] >= min(count - 1, available)
    if limit >= num_classes * len({clip.actor for clip in clips}):
        assert gets.keys() == has.keys()


def test_clips_of_the_sample_corpus_are_called_what_they_are(roots, tmp_path):
    assert plan_build(roots, BuildSettings()).provenance == ""
    put(tmp_path, sample.MARKER_NAME, content=b'{"what": "drawn clips"}')
    assert plan_build(roots, BuildSettings()).provenance == "drawn clips"


def test_inputs_name_every_file_with_its_size_and_time(roots):
    plan = plan_build({"crema_d": roots["crema_d"]}, BuildSettings())
    inputs = plan.inputs()
    assert inputs.keys() == {clip.example_id for clip in plan.clips}
    path = roots["crema_d"] / "1001_DFA_ANG_XX.flv"
    assert inputs["crema_d/1001_DFA_ANG_XX"] == [
        ["crema_d/1001_DFA_ANG_XX.flv", 5, path.stat().st_mtime_ns]
    ]


def test_a_wrong_folder_is_named_with_its_flag(roots, tmp_path):
    with pytest.raises(BuildError, match=r"--ravdess_dir: .*c is not RAVDESS"):
        plan_build({"ravdess": roots["crema_d"]}, BuildSettings())
    with pytest.raises(BuildError, match=r"--crema_d_dir: .*nowhere: no such folder"):
        plan_build({"crema_d": tmp_path / "nowhere"}, BuildSettings())


def test_nothing_to_build_is_an_error_with_its_reasons(tmp_path):
    put(tmp_path, "03-01-03-01-01-01-01.wav")
    with pytest.raises(
        BuildError, match=r"no clip to build; all 1 files are skipped:\n.*no picture"
    ):
        plan_build({"ravdess": tmp_path}, BuildSettings())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modalities": "video"}, "modalities must be one of both, audio, landmarks, got 'video'"),
        ({"num_classes": 7}, "num_classes must be 6 or 8, got 7"),
        ({"num_folds": 1}, r"num_folds must be a whole number in \[2, \d+\], got 1"),
        ({"max_shard_size_mb": 0.0}, r"max_shard_size_mb must be in \(0, 1e9\], got 0\.0"),
        ({"max_shard_size_mb": float("inf")}, r"max_shard_size_mb must be in \(0, 1e9\], got inf"),
        ({"audio": AudioSettings(num_mels=500)}, "153 of 500 mel bands hold no frequency"),
        ({"limit": 0}, r"limit must be a whole number in \[1, \d+\], got 0"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        BuildSettings(**wrong)


def test_settings_tell_the_versions_of_what_computes_the_values():
    versions = BuildSettings().as_dict()["versions"]
    assert {"av", "librosa", "mediapipe", "numpy", "soxr"} == versions.keys()
    assert "mediapipe" not in BuildSettings(modalities="audio").as_dict()["versions"]
    assert "librosa" not in BuildSettings(modalities="landmarks").as_dict()["versions"]
