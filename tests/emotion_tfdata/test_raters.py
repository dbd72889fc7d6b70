"""Votes and demographics in the package, against the corpus's own files."""

from __future__ import annotations

import csv
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from emotion_tfdata.dataset import raters
from emotion_tfdata.labels import CREMA_D_EMOTIONS, EMOTIONS, class_index

NPZ_SHA256 = "b020af20d8813022330bb5f6f1b9ff124956896be5807240f47b6dc68bd12ef1"


@pytest.fixture(scope="module")
def facts(project_dir):
    assert hashlib.sha256(Path(raters._FILE).read_bytes()).hexdigest() == NPZ_SHA256
    folder = project_dir.parent / "shared" / "facts"
    if not folder.is_dir():
        pytest.skip("the corpus's files are not there: ../shared/facts; the pinned hash holds")
    return folder


def test_votes_are_those_of_the_corpus_and_the_majority_its_figures(facts):
    with gzip.open(facts / "cremad_votes.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 22326
    share_of_intended = {"voice": 0.397, "face": 0.572, "both": 0.629}
    for shown, expected in (("voice", 0.416), ("face", 0.663), ("both", 0.722)):
        of = [row for row in rows if row["seen"] == shown]
        counts = raters.votes([f"crema_d/{row['clip']}" for row in of], shown)
        theirs = [[int(row[name]) for name in sorted(CREMA_D_EMOTIONS)] for row in of]
        columns = [EMOTIONS.index(CREMA_D_EMOTIONS[name]) for name in sorted(CREMA_D_EMOTIONS)]
        np.testing.assert_array_equal(counts[:, columns], theirs)
        intended = np.array([class_index(CREMA_D_EMOTIONS[row["clip"][9:12]], 6) for row in of])
        assert np.mean(raters.majority(counts) == intended) == pytest.approx(expected, abs=5e-4)
        own = raters.shares(counts)[np.arange(len(of)), intended]
        assert own.mean() == pytest.approx(share_of_intended[shown], abs=5e-4)


def test_age_and_sex_are_those_of_the_corpus(facts):
    with (facts / "cremad_VideoDemographics.csv").open() as file:
        for row in csv.DictReader(file):
            assert raters.sex("crema_d", row["ActorID"]) == row["Sex"].lower()
            first = raters.age_group("crema_d", row["ActorID"]).split("-")[0].rstrip("+")
            assert int(first) == min(int(row["Age"]) // 10 * 10, 60)
    assert [raters.sex("ravdess", actor) for actor in ("01", "02")] == ["male", "female"]
    assert raters.age_group("ravdess", "01") is None
    assert raters.sex("savee", "DC") is None


def test_a_tie_and_no_votes_have_no_majority():
    counts = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0], [0, 0, 1]], np.uint8)
    assert raters.majority(counts).tolist() == [0, -1, -1, 2]
    assert raters.shares(counts).tolist() == [
        [0.75, 0.25, 0],
        [0.5, 0.5, 0],
        [0] * 3,
        [0, 0, 1],
    ]


def test_labels_are_the_raters_where_there_are_votes():
    ids = ["ravdess/01-01-03-01-02-01-12", "crema_d/1001_DFA_ANG_XX", "crema_d/1001_DFA_DIS_XX"]
    intended = np.array([1, 3, 5], np.int32)
    of = {kind: raters.targets(kind, ids, intended, "audio", 8) for kind in raters.LABELS}
    counts = raters.votes(ids, "voice", 8)
    assert of["intended"].tolist() == [1, 3, 5]
    assert of["perceived"].tolist() == [1, *raters.majority(counts)[1:]]
    assert of["votes"].shape == (3, 8)
    assert of["votes"][0].tolist() == np.eye(8)[1].tolist()
    np.testing.assert_allclose(of["votes"][1:], counts[1:] / counts[1:].sum(axis=1, keepdims=True))
    both = raters.targets("perceived", ids, intended, "both")
    assert both[1] == raters.majority(raters.votes(ids, "both"))[1] == 3


def test_what_nobody_rated_has_no_votes():
    ids = ["ravdess/01-01-03-01-02-01-12", "crema_d/1001_XXX_ANG_XX", "crema_d/1001_DFA_ANG_XX"]
    assert raters.votes(ids, "voice", 8).sum(axis=1).tolist() == [0, 0, 9]
    with pytest.raises(ValueError, match="shown must be one of voice, face, both, got 'audio'"):
        raters.votes(ids, "audio")
