"""Trainings on other protocols, corpora and labels: who is trained, selected and tested on."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata import Features, testing
from emotion_tfdata.dataset import raters
from emotion_tfdata.labels import CREMA_D_EMOTIONS
from emotion_tfdata.training import run
from emotion_tfdata.training.data import Data, DataError
from emotion_tfdata.training.learner import Learner
from emotion_tfdata.training.progress import Progress
from emotion_tfdata.training.report_html import markdown


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Five actors of RAVDESS and CREMA-D's 1001 to 1005, six clips each, under real names."""
    names = {emotion: name for name, emotion in CREMA_D_EMOTIONS.items()}

    def crema_d(example):
        actor, name = f"10{example.actor}", names[example.emotion]
        example_id = f"crema_d/{actor}_IEO_{name}_{'XX' if name == 'NEU' else 'HI'}"
        return dataclasses.replace(example, corpus="crema_d", actor=actor, example_id=example_id)

    path = str(tmp_path_factory.mktemp("both"))
    examples = testing.fake_examples()
    testing.write_data_set(path, [*examples, *map(crema_d, testing.fake_examples(seed=1))])
    return path


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"protocol": "leave_one_actor_out", "fold": 9}, (42, 12, 6)),
        ({"protocol": "leave_one_corpus_out"}, (24, 6, 30)),
        ({"protocol": "luna", "fold": 1}, (12, 12, 6)),
        ({"train_corpora": ("ravdess",), "test_corpora": ("crema_d",)}, (24, 6, 6)),
        ({"train_corpora": ("ravdess",), "select_on": "held_out"}, (24, 12, 12)),
    ],
)
def test_parts_are_apart_and_each_has_its_clips(data_dir, settings, changes, counts):
    data = Data(data_dir, settings(**changes))
    parts = (data.train, data.selection, data.held_out)
    assert tuple(map(len, parts)) == counts
    if data.selection is not data.held_out:
        assert len({place for part in parts for place in part.places}) == sum(counts)
    served = [int(batch[1].shape[0]) for batch in data.batches_of(data.selection)]
    assert sum(served) == counts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "luna", "fold": 4, "test_corpora": ("crema_d",)}, "folds with clips: none"),
        ({"protocol": "gone.json"}, "gone.json: cannot be read"),
        (
            {"train_corpora": ("savee",)},
            "there is no 'savee' in this data set; it has crema_d, rav",
        ),
    ],
)
def test_what_the_data_set_lacks_is_named(data_dir, settings, changes, message):
    with pytest.raises(DataError, match=message):
        Data(data_dir, settings(**changes))


def test_votes_are_trained_on_by_their_cross_entropy(data_dir, settings):
    features = Features("landmarks", labels="votes")
    chosen = settings(features=features, augment=None, batch_size=60, class_weights="balanced")
    data = Data(data_dir, chosen, num_threads=1)
    batch, shares, _ = next(iter(_with_ids(data)))
    learner = Learner(chosen, data.class_weights())
    logits = learner.model.logits(batch, training=False)
    expected = -np.sum(shares * tf.nn.log_softmax(logits), axis=1)
    trained = learner.model.logits
    learner.model.logits = lambda features, training: trained(features, training=False)
    step = learner.train(batch, tf.constant(shares))
    assert step.cross_entropy == pytest.approx(expected.sum(), rel=1e-5)
    right = np.argmax(logits, axis=1) == np.argmax(shares, axis=1)
    assert step.correct == right.sum()
    weights = shares @ data.class_weights()
    penalties = step.loss - np.mean(weights * expected)
    assert 0 <= penalties < 5


def _with_ids(data):
    from emotion_tfdata.training.data import with_ids_apart

    for features, labels, ids in with_ids_apart(data.training_batches(0, 0)[0]):
        yield features, labels.numpy(), ids


def test_a_training_on_perceived_labels_reports_ties_and_raters(
    data_dir, settings, tmp_path, step_by_step
):
    chosen = settings(
        features=Features("landmarks", labels="perceived"),
        epochs=1,
        protocol="leave_one_corpus_out",
    )
    options = run.Options(data_dir, tmp_path, input_threads=1)
    report = run.train_fold(chosen, options, Progress(io.StringIO()))
    ids = [f"crema_d/{n}_IEO_{e}_{'XX' if e == 'NEU' else 'HI'}"
           for n in range(1001, 1006) for e in CREMA_D_EMOTIONS]  # fmt: skip
    ties = int((raters.majority(raters.votes(ids, "face")) < 0).sum())
    assert report["ties"] == ties
    assert report["held_out"]["clips"] == 30 - ties
    assert report["held_out"]["raters"]["ties"] == 0  # none is left
    text = markdown(report)
    assert "protocol: leave_one_corpus_out (each corpus held out once: neither" in text
    assert "Used by EMO-AffectNet, among others" in text
    assert f"trained and tested on; {ties} clips that they are tied on are skipped" in text
