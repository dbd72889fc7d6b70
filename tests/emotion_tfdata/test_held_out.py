"""What is served under each protocol, of which corpora, and with which labels."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from emotion_tfdata import Features, class_weights, make_dataset, testing
from emotion_tfdata.dataset import raters
from emotion_tfdata.labels import CREMA_D_EMOTIONS, EMOTIONS


@pytest.fixture(scope="module")
def examples():
    """Actors 1 to 5 of RAVDESS and 1001 to 1005 of CREMA-D, six clips each, under real names."""
    names = {emotion: name for name, emotion in CREMA_D_EMOTIONS.items()}

    def crema_d(example):
        actor, name = f"10{int(example.actor):02d}", names[example.emotion]
        example_id = f"crema_d/{actor}_IEO_{name}_{'XX' if name == 'NEU' else 'HI'}"
        return dataclasses.replace(example, corpus="crema_d", actor=actor, example_id=example_id)

    return testing.fake_examples() + [*map(crema_d, testing.fake_examples(seed=1))]


@pytest.fixture(scope="module")
def data_dir(examples, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("both"))
    testing.write_data_set(path, examples)
    return path


def served(data_dir, split, features=None, **options):
    """Id -> (label, first frame of audio) of everything a split serves."""
    features = dataclasses.replace(features or Features(), with_ids=True, modalities="audio")
    found = {}
    for batch, label in make_dataset(data_dir, split, features=features, **options):
        ids = [example_id.decode() for example_id in batch["example_id"].numpy()]
        found |= dict(
            zip(ids, zip(label.numpy(), batch["audio"].numpy()[:, 0], strict=True), strict=True)
        )
    return found


def test_any_grouping_is_scaled_by_its_training_side(data_dir, examples, tmp_path):
    path = tmp_path / "mine.json"
    folds = {"0": ["ravdess/01", "crema_d/1004"], "1": ["ravdess/03"], "2": ["crema_d/1002"]}
    path.write_text(json.dumps(folds | {"unused": "*"}))
    found = served(data_dir, "test", protocol=str(path), fold=0)
    of = {e.example_id: e for e in examples}
    assert {f"{of[i].corpus}/{of[i].actor}" for i in found} == set(folds["0"])
    train = [e for e in examples if f"{e.corpus}/{e.actor}" in (*folds["1"], *folds["2"])]
    rows = np.concatenate([np.round(e.audio.astype(np.float64) * 128) / 128 for e in train])
    for example_id, (_, frame) in found.items():
        raw = np.round(of[example_id].audio[0].astype(np.float64) * 128) / 128
        expected = (raw - rows.mean(axis=0)) / rows.std(axis=0)
        np.testing.assert_allclose(frame, expected, atol=1e-5)


def test_one_corpus_is_trained_on_and_the_other_tested_on(data_dir):
    corpora = {"train": "ravdess", "test": "crema_d"}
    for protocol, count in (("actor", 6), ("leave_one_corpus_out", 30)):
        options = {"protocol": protocol, "corpora": corpora}
        train, test = (served(data_dir, split, **options) for split in ("train", "test"))
        assert len(train) == 30
        assert len(test) == count
        assert all(i.startswith("ravdess/") for i in train)
        assert all(i.startswith("crema_d/") for i in test)
    alone = served(data_dir, "all", corpora="crema_d")
    assert len(alone) == 30


def test_labels_are_what_raters_perceived_or_their_votes(data_dir, examples):
    intended = {e.example_id: EMOTIONS.index(e.emotion) for e in examples}
    rated = [i for i in intended if i.startswith("crema_d/")]
    votes = dict(zip(rated, raters.votes(rated, "voice"), strict=True))
    majority = dict(zip(rated, raters.majority(raters.votes(rated, "voice")), strict=True))
    assert -1 in majority.values()  # one of them is a tie
    perceived = served(data_dir, "all", Features(labels="perceived"))
    expected = {i: label for i, label in (intended | majority).items() if label >= 0}
    assert {i: label for i, (label, _) in perceived.items()} == expected
    shares = served(data_dir, "all", Features(labels="votes"))
    assert shares.keys() == intended.keys()
    for example_id, (label, _) in shares.items():
        own = votes.get(example_id, np.eye(6)[intended[example_id]])
        np.testing.assert_allclose(label, own / own.sum(), rtol=1e-6)
    counts = np.sum(
        [label for label, _ in served(data_dir, "train", Features(labels="votes")).values()], axis=0
    )
    weights = class_weights(data_dir, features=Features(modalities="audio", labels="votes"))
    np.testing.assert_allclose(weights, 48 / (6 * counts), rtol=1e-5)
