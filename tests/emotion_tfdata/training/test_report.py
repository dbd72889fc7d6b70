"""What a report says, and that it says it of the right clips."""

from __future__ import annotations

import csv
import json

import matplotlib.image
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from emotion_tfdata import testing
from emotion_tfdata.models import ModelConfig
from emotion_tfdata.training import report as reports
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.learner import Predictions


def predictions_of(data: Data, seed: int = 0) -> Predictions:
    """Random answers for the held-out clips, one of three of them right."""
    rng = np.random.default_rng(seed)
    records = data.held_out.records
    names = ["neutral", "happy", "sad", "angry", "fearful", "disgust"]
    labels = np.array([names.index(record.emotion) for record in records])
    probabilities = rng.dirichlet(np.ones(6), len(records)).astype(np.float32)
    right = rng.random(len(records)) < 1 / 3
    probabilities[right, labels[right]] += 2
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions(tuple(r.example_id for r in records), labels, probabilities, 1.5)


@pytest.fixture
def two_corpora_dir(tmp_path):
    """Made-up clips of which every second actor's are said to be CREMA-D's."""
    import dataclasses

    examples = [
        dataclasses.replace(
            example, corpus="crema_d", example_id=example.example_id.replace("ravdess", "crema_d")
        )
        if int(example.actor) % 2
        else example
        for example in testing.fake_examples(num_actors=10)
    ]
    testing.write_data_set(str(tmp_path), examples)
    return str(tmp_path)


@pytest.fixture
def fold_report(settings):
    def make(data_dir, **changes):
        chosen = settings(**changes)
        data = Data(data_dir, chosen)
        seen = predictions_of(data, chosen.fold)
        history = [{"seconds": 1.5}, {"seconds": 2.0}]
        return reports.fold_report(chosen, data, seen, history, best_epoch=1), seen

    return make


def test_figures_are_those_of_scikit_learn_in_all_and_by_corpus(fold_report, two_corpora_dir):
    report, seen = fold_report(two_corpora_dir)
    predicted = seen.probabilities.argmax(axis=1)
    held_out = report["held_out"]
    assert held_out["accuracy"] == pytest.approx(accuracy_score(seen.labels, predicted))
    assert held_out["uar"] == pytest.approx(balanced_accuracy_score(seen.labels, predicted))
    assert sorted(held_out["by_corpus"]) == ["crema_d", "ravdess"]
    for corpus, part in held_out["by_corpus"].items():
        of = np.array([example_id.startswith(corpus) for example_id in seen.example_ids])
        assert part["clips"] == of.sum()
        assert part["uar"] == pytest.approx(balanced_accuracy_score(seen.labels[of], predicted[of]))


def test_folds_are_put_together(fold_report, fake_data_dir):
    folds = [fold_report(fake_data_dir, fold=fold)[0] for fold in range(5)]
    report = reports.folds_report(folds)
    recalls = [fold["held_out"]["uar"] for fold in folds]
    over = report["held_out"]["uar_over_folds"]
    low, high = stats.t.interval(0.95, 4, np.mean(recalls), stats.sem(recalls))
    assert over["mean"] - over["half_width_95"] == pytest.approx(low)
    assert over["mean"] + over["half_width_95"] == pytest.approx(high)
    assert report["held_out"]["clips"] == 30  # every clip is held out once
    assert np.sum(report["held_out"]["confusion_matrix"]["clips"]) == 30
    assert f"UAR: {np.mean(recalls):.3f} +- " in reports.markdown(report)


def test_the_random_protocol_is_called_leaky_wherever_a_figure_stands(fold_report, fake_data_dir):
    report, _ = fold_report(fake_data_dir, protocol="random")
    assert "random LEAKY (leaky: clips dealt at random" in reports.markdown(report)
    honest, _ = fold_report(fake_data_dir)
    assert "leaky" not in reports.markdown(honest).lower()


def test_provenance_and_selection_stand_beside_the_figures(fold_report, fake_data_dir):
    text = reports.markdown(fold_report(fake_data_dir, select_on="held_out")[0])
    assert text.startswith("# test: 6 held-out clips (made-up data)")
    assert "selection: held_out (epoch chosen on the held-out fold itself" in text
    assert "optimistic" in text
    assert "1 actors (ravdess/01)" in text


def test_files_say_what_the_report_says(fold_report, fake_data_dir, tmp_path):
    report, seen = fold_report(fake_data_dir)
    reports.write(tmp_path, report)
    reports.write_predictions(tmp_path, seen)
    assert json.loads((tmp_path / "report.json").read_text())["held_out"]["uar"] == pytest.approx(
        report["held_out"]["uar"]
    )
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["example_id"] for row in rows] == list(seen.example_ids)
    agree = np.mean([row["true"] == row["predicted"] for row in rows])
    assert agree == pytest.approx(report["held_out"]["accuracy"])


def test_a_class_without_clips_has_no_recall_and_still_a_report(
    fold_report, fake_data_dir, tmp_path
):
    report, _ = fold_report(fake_data_dir)
    confusion = np.diag([3, 0, 2, 1, 1, 1])
    report["held_out"] |= reports.figures(confusion)
    reports.write(tmp_path, report)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["held_out"]["by_class"]["happy"] == {
        "clips": 0,
        "recall": None,
        "precision": None,
    }
    assert content["held_out"]["uar"] == 1
    assert "| happy | 0 | - | - |" in (tmp_path / "report.md").read_text()


def test_the_picture_is_dark_where_the_matrix_is_full(fold_report, fake_data_dir, tmp_path):
    report, _ = fold_report(fake_data_dir)
    brightness = []
    for shift in (0, 1):  # everything right; everything taken for the next class
        report["held_out"] |= reports.figures(np.roll(np.diag([4] * 6), shift, axis=1))
        reports.draw_confusion(tmp_path / "c.png", report)
        brightness.append(matplotlib.image.imread(tmp_path / "c.png")[..., 0])
    changed = np.argwhere(np.abs(brightness[0] - brightness[1]) > 0.5)
    assert len(changed) > 1000
    # The diagonal's cells lie from top left to bottom right and were dark in the first alone.
    was_dark = np.argwhere((brightness[0] < 0.3) & (brightness[1] > 0.7))
    assert np.corrcoef(was_dark.T)[0, 1] > 0.9


def test_model_sizes_stand_in_the_settings(fold_report, fake_data_dir):
    report, _ = fold_report(fake_data_dir, model=ModelConfig(l2=0.25))
    assert report["settings"]["model"]["l2"] == 0.25
