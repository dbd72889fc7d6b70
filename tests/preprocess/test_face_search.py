"""Small faces, several faces, and faces in pictures that are stored turned or squeezed."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from preprocess.clip import face_search, media
from preprocess.clip import landmarks as lm
from preprocess.clip.face_search import Box

PICTURES = 12


@pytest.fixture(scope="module")
def people(corpora_dir):
    """The beginnings of two clips of CREMA-D: times and pictures, and the track of each."""
    paths = sorted((corpora_dir / "crema_d" / "VideoFlash").glob("*.flv"))[:2]
    clips = [read(path) for path in paths]
    return [(clip, lm.track_face(clip)) for clip in clips]


def read(path):
    pictures = [(picture.time_s, picture.rgb) for picture in media.read_pictures(path)]
    return pictures[:PICTURES]


def put(clips_and_places, size=(360, 480)):
    """Clips shrunk into one picture, each (clip, share of its size, left, top)."""
    made = []
    for number in range(PICTURES):
        canvas = np.full((*size, 3), 110, np.uint8)
        for clip, share, left, top in clips_and_places:
            small = cv2.resize(
                clip[number][1], None, fx=share, fy=share, interpolation=cv2.INTER_AREA
            )
            canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        made.append((clips_and_places[0][0][number][0], canvas))
    return made


def distance(track, other):
    """Mean distance of the landmarks, in distances between the eyes."""
    assert track.found.all()
    assert other.found.all()
    (one, _), (two, _) = (lm.to_face_frame(each.points) for each in (track, other))
    return np.linalg.norm(one - two, axis=-1).mean()


@pytest.mark.parametrize(("left", "top"), [(10, 10), (200, 130), (350, 260)])
def test_a_face_a_quarter_as_large_is_found_and_is_the_same(people, left, top):
    clip, upright = people[0]
    track = lm.track_face(put([(clip, 0.25, left, top)]))
    assert track.faces == 1
    assert distance(track, upright) < 0.05
    _, head = lm.to_face_frame(track.points)
    _, expected = lm.to_face_frame(upright.points)
    np.testing.assert_allclose(head[:, 0] * 480, expected[:, 0] * 480 * 0.25 + left, atol=1.5)
    np.testing.assert_allclose(head[:, 1] * 480, expected[:, 1] * 480 * 0.25 + top, atol=1.5)


@pytest.mark.parametrize("larger", [0, 1])
def test_of_two_faces_the_largest_is_followed_and_that_there_are_two_is_said(people, larger):
    shares = [1.0, 0.7] if larger == 0 else [0.7, 1.0]
    places = [(people[0][0], shares[0], 0, 0), (people[1][0], shares[1], 500, 0)]
    track = lm.track_face(put(places, (400, 1000)))
    assert track.faces == 2
    assert distance(track, people[larger][1]) < 0.01
    assert distance(track, people[1 - larger][1]) > 0.03


def test_a_second_person_who_is_there_for_a_second_is_noticed(people, monkeypatch):
    """At whichever time: pictures without them are repeated before and after."""
    looked = []
    find = face_search.find_boxes
    monkeypatch.setattr(face_search, "find_boxes", lambda rgb: looked.append(rgb) or find(rgb))
    picture = people[0][0][0][1]
    together = np.concatenate([picture, people[1][0][0][1]], axis=1)
    alone = np.concatenate([picture, np.full_like(picture, 110)], axis=1)
    for first in (1, 17):
        shown = [together if first <= number < first + 30 else alone for number in range(60)]
        track = lm.track_face([(number / 30, rgb) for number, rgb in enumerate(shown)])
        assert track.faces == 2
    looked.clear()
    lm.track_face([(number / 30, alone) for number in range(60)])
    assert len(looked) == 3


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("transpose=1", ("-display_rotation", 90)),
        ("hflip,vflip", ("-display_rotation", 180)),
        ("transpose=2", ("-display_rotation", -90)),
        ("hflip", ("-display_hflip",)),
        ("scale=iw/2:ih,setsar=2/1", ()),
        ("scale=trunc(iw*2/3)*2:ih,setsar=3/4", ()),
        ("scale=trunc(iw*11/24)*2:ih,setsar=12/11", ()),
    ],
)
def test_landmarks_of_a_real_clip_are_the_same_however_it_is_stored(
    corpora_dir, tmp_path_factory, ffmpeg, stored, said
):
    source = sorted(corpora_dir.glob("ravdess/Video*/*/*.mp4"))[0]
    folder = tmp_path_factory.mktemp("stored")
    x264 = ("-c:v", "libx264", "-crf", 10, "-preset", "ultrafast", "-frames:v", PICTURES)
    upright, turned = folder / "upright.mkv", folder / "turned.mkv"
    ffmpeg("-i", source, "-an", "-vf", "setsar=1", *x264, upright)
    ffmpeg("-i", source, "-an", "-vf", stored, *x264, turned)
    if said:
        ffmpeg(*said, "-i", turned, "-c", "copy", folder / "said.mp4")
        turned = folder / "said.mp4"
    expected, found = lm.track_face(read(upright)), lm.track_face(read(turned))
    assert distance(found, expected) < 0.03
    _, head = lm.to_face_frame(found.points)
    off = np.abs(head - lm.to_face_frame(expected.points)[1])
    assert off.mean(axis=0).max() < 0.01


# -- of boxes alone -------------------------------------------------------------------------------


def test_a_person_is_followed_over_gaps_and_past_others():
    walks = [Box(10.0 + 2 * number, 50, 20) for number in range(40)]
    stands = Box(200, 50, 15)
    seen = [[] if number in (5, 6) else [stands, box] for number, box in enumerate(walks)]
    seen[20] = [stands]
    places, most = face_search.choose_person(seen)
    assert most == 2
    assert places == pytest.approx(walks)
    places, _ = face_search.choose_person([[], [stands], [stands], []])
    assert places == [None, stands, stands, None]
    assert face_search.choose_person([[], []]) == ([None, None], 0)


def test_the_window_stays_while_the_face_is_well_inside():
    boxes = [Box(100 + number, 60.0, 30) for number in range(40)]
    found = list(face_search.windows(boxes, [(120, 300)] * 40))
    assert 1 < len(set(found)) < 5
    for box, window in zip(boxes, found, strict=True):
        assert window.left < box.x - box.size / 2
        assert box.x + box.size / 2 < window.right
    assert list(face_search.windows([None], [(9, 9)])) == [None]


def test_other_faces_are_taken_out_of_the_window():
    picture = np.full((100, 200, 3), 255, np.uint8)
    (window,) = face_search.windows([Box(50, 50, 40)], [picture.shape])
    face = Box(50, 50, 40)
    part = face_search.cut_out(picture, window, face, [face, Box(90, 50, 20)])
    assert (part[50 - window.top, 82 - window.left] == 128).all()
    assert (part[50 - window.top, 50 - window.left] == 255).all()
    assert (picture == 255).all()
    assert dataclasses.astuple(face)[:2] == (50, 50)
