"""Who is held out under each protocol, against the published lists."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

from emotion_tfdata.dataset import protocols
from emotion_tfdata.dataset.folds import actor_folds

RAVDESS = actor_folds([("ravdess", f"{actor:02d}") for actor in range(1, 25)], 5)
CREMA_D = actor_folds([("crema_d", str(actor)) for actor in range(1001, 1092)], 5)
# Of {"luna": {"ravdess": [[actors of fold 0], ...]}, ...} as JSON with sorted keys; see below.
PUBLISHED_SHA256 = "72a154014cdb7c15511e3a55774b290de5e010dbce0f8ccffb059f6692e528c8"


def first_of(actors, count):
    return dict([*actors.items()][:count])


def dealt(name, actors):
    """The actors of each fold, as whole numbers, by corpus."""
    deal = protocols.deal(name, actors, 5)
    return {
        corpus: [
            [
                int(deal.cells[i][1])
                for i in np.flatnonzero(deal.folds == fold)
                if deal.cells[i][0] == corpus
            ]
            for fold in range(deal.num_folds)
        ]
        for corpus in sorted({corpus for corpus, _ in actors})
    }


def published():
    return {
        "luna": dealt("luna", RAVDESS),
        "emobox_ravdess": dealt("emobox_ravdess", RAVDESS),
        "hicmae": dealt("hicmae", CREMA_D),
        "published": dealt("published", RAVDESS | CREMA_D),
    }


def test_published_folds_are_those_of_their_lists(project_dir):
    found = published()
    assert found["published"] == found["luna"] | found["hicmae"]
    text = json.dumps(found, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED_SHA256
    facts = project_dir.parent / "shared" / "facts" / "protocols.md"
    if not facts.is_file():
        pytest.skip("the lists are not there: ../shared/facts/protocols.md; the pinned hash holds")
    rows = {
        row.split("|")[1].strip(" `"): row.split("|")[3]
        for row in facts.read_text().splitlines()
        if row.startswith("|")
    }
    for name in ("luna", "emobox_ravdess"):
        lists = [
            [int(actor) for actor in fold.split(",")]
            for fold in re.findall(r"\{([0-9,]+)\}", rows[name])
        ]
        assert found[name]["ravdess"] == lists
        assert sorted(actor for fold in lists for actor in fold) == list(range(1, 25))
    ranges = re.findall(r"(\d{4})-(\d{4})", rows["hicmae"])
    lists = [list(range(int(first), int(last) + 1)) for first, last in ranges]
    assert found["hicmae"]["crema_d"] == lists


def test_one_actor_or_one_corpus_at_a_time_is_held_out():
    deal = protocols.deal("leave_one_actor_out", RAVDESS | CREMA_D, 5)
    assert deal.num_folds == 115
    assert sorted(deal.folds) == list(range(115))
    deal = protocols.deal("leave_one_corpus_out", RAVDESS | CREMA_D, 5)
    for fold, corpus in enumerate(("crema_d", "ravdess")):
        held_out = {deal.cells[i][0] for i in np.flatnonzero(deal.part("test", fold))}
        trained = {deal.cells[i][0] for i in np.flatnonzero(deal.part("train", fold))}
        assert held_out == {corpus}
        assert trained == {"crema_d", "ravdess"} - {corpus}


@pytest.mark.parametrize("name", [name for name in protocols.NAMES if name != "random"])
@pytest.mark.parametrize(
    "corpora",
    [None, "crema_d", {"train": ["ravdess"], "test": ["crema_d"]}, {"test": "ravdess"}],
)
def test_train_validation_and_test_share_nobody(name, corpora):
    deal = protocols.deal(name, RAVDESS | CREMA_D, 5)
    for fold in {0, deal.num_folds - 1}:
        chosen = (fold + 1) % deal.num_validation_folds
        parts = [deal.part(split, fold, chosen, corpora) for split in protocols.SPLITS]
        assert (np.sum(parts[:3], axis=0) <= 1).all()
        assert not (parts[1] & ~parts[3]).any()
        for names, of in zip(
            protocols.sides(corpora), (parts[0] | parts[1], parts[2]), strict=True
        ):
            there = {deal.cells[i][0] for i in np.flatnonzero(of)}
            assert names is None or there <= set(names)


def test_a_corpus_that_is_not_tested_is_trained_on_whole():
    deal = protocols.deal("actor", RAVDESS | CREMA_D, 5)
    train = deal.part("train", 0, corpora={"train": "ravdess", "test": "crema_d"})
    assert {deal.cells[i] for i in np.flatnonzero(train)} == RAVDESS.keys()


def test_random_cells_are_folds_of_clips():
    deal = protocols.deal("random", RAVDESS, 5)
    assert deal.by_clip
    assert [deal.cells[i] for i in np.flatnonzero(deal.part("train", 1, 2))] == [
        ("ravdess", fold) for fold in "034"
    ]


def test_what_a_protocol_is_stands_in_its_words():
    for name in protocols.NAMES:
        words = protocols.describe(name).words
        assert words.startswith("leaky: ") == (name == "random")
        assert "Used by " in words


def test_what_has_no_part_in_a_protocol_is_noted():
    notes = protocols.deal("luna", first_of(RAVDESS, 16) | CREMA_D, 5).notes
    assert notes[0] == "clips of crema_d have no part in it"
    assert notes[1].startswith("8 of the 24 actors of ravdess")
    assert protocols.deal("published", RAVDESS, 5).notes == ()


def test_folds_of_a_file_are_checked_against_the_data_set(tmp_path):
    path = tmp_path / "mine.json"

    def deal(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return protocols.deal(str(path), first_of(RAVDESS, 4), 5)

    one, two, three, four = (f"ravdess/0{n}" for n in range(1, 5))
    for unused in ([two], "*"):
        mine = deal({"0": [one, three], "1": [four], "unused": unused})
        assert mine.num_folds == 2
        assert mine.folds.tolist() == [0, -1, 0, 1]
        assert mine.part("all", 0).tolist() == [True, False, True, True]
    for content, message in (
        ({"0": [one, two], "1": [one, three, four]}, "ravdess/01 stands in 0 and in 1"),
        ({"0": [one, two], "1": [three, "savee/DC"]}, "no actor 'savee/DC' in this data set"),
        ({"0": [one], "1": [three, four]}, r"in no fold are ravdess/02; add .* under \"unused\""),
        ({"0": [one, two], "2": [three, four]}, "named 0, 1, ... without a gap"),
        ({"0": [one, two, three, four]}, "at least two, got 0"),
        ({"0": one, "1": [two]}, "'0' must be a list like"),
        ('{"0": ["ravdess/01"], "0": []}', "0 stands there twice"),
        ("[]", "must be {"),
        ("{", "not JSON of folds"),
    ):
        with pytest.raises(protocols.ProtocolError, match=message):
            deal(content)
    with pytest.raises(protocols.ProtocolError, match=r"gone.json: cannot be read \(No such file"):
        protocols.deal("gone.json", RAVDESS, 5)


@pytest.mark.parametrize(
    ("name", "actors", "message"),
    [
        ("speaker", RAVDESS, "one of actor, random, published, .* JSON file of folds, got 'speak"),
        ("hicmae", RAVDESS, "holds out actors of crema_d, this data set has ravdess"),
        ("luna", RAVDESS | {("ravdess", "25"): 4}, "luna knows no actor ravdess/25"),
        ("leave_one_corpus_out", RAVDESS, "needs two corpora, this data set has ravdess alone"),
    ],
)
def test_a_protocol_that_does_not_suit_the_data_set_is_refused(name, actors, message):
    with pytest.raises(protocols.ProtocolError, match=message):
        protocols.deal(name, actors, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("valid", 0), "split must be one of train, validation, test, all, got 'valid'"),
        (("train", 5), r"fold must be in 0\.\.4, the folds of protocol luna, got 5"),
        (("train", 0, 5), r"validation_fold must be in 0\.\.4"),
        (("train", 1, 1), "validation_fold must differ from fold, both are 1"),
        (
            ("validation", 4),
            "needs validation_fold, .* give 'train' the same, e.g. validation_fold=0",
        ),
        (("all", 0, None, "savee"), "no 'savee' in this data set; it has ravdess"),
        (("all", 0, None, {"tests": "ravdess"}), r"give 'train', 'test' or both, got \['tests'\]"),
        (("all", 0, None, []), "corpora must be names, at least one"),
    ],
)
def test_a_part_that_there_is_not_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        protocols.deal("luna", RAVDESS, 5).part(*arguments)
