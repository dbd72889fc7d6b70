"""What a report says, and that it says it of the right clips."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from emotion_tfdata import testing
from emotion_tfdata.dataset import raters
from emotion_tfdata.labels import CREMA_D_EMOTIONS, EMOTIONS
from emotion_tfdata.models import ModelConfig
from emotion_tfdata.training import calibration, report_figures, report_html, run_dir
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


def epoch_entry(epoch: int, loss: float) -> dict[str, Any]:
    """A line of a training's history."""
    return {
        "epoch": epoch,
        "learning_rate": 0.001,
        "train": {"loss": loss + 1, "cross_entropy": loss, "accuracy": 0.5},
        "selection": {"loss": loss, "accuracy": 0.4, "uar": 0.3, "recall": {}},
        "seconds": 1.75,
    }


@pytest.fixture
def two_corpora_dir(tmp_path):
    """Made-up clips of which every second actor's have names of CREMA-D's."""
    names = {emotion: name for name, emotion in CREMA_D_EMOTIONS.items()}

    def renamed(example):
        if int(example.actor) % 2 == 0:
            return example
        actor, name = f"10{example.actor}", names[example.emotion]
        example_id = f"crema_d/{actor}_IEO_{name}_{'XX' if name == 'NEU' else 'HI'}"
        return dataclasses.replace(example, corpus="crema_d", actor=actor, example_id=example_id)

    examples = [renamed(example) for example in testing.fake_examples(num_actors=10)]
    testing.write_data_set(str(tmp_path), examples)
    return str(tmp_path)


def test_a_class_without_clips_has_no_shares_in_the_picture():
    confusion = np.diag([0, 3, 1, 1, 1, 1])
    report = {"name": "x", "provenance": "", "protocol": "actor", "leaky": False}
    figure = report_figures.confusion_figure(
        report | {"held_out": reports.figures(confusion, EMOTIONS[:6])}
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:6] == ["-"] * 6
    assert texts[7] == "100%\n3"


@pytest.fixture
def fold_report(settings):
    def make(data_dir, temperature=None, **changes):
        chosen = settings(**changes)
        data = Data(data_dir, chosen)
        seen = predictions_of(data, chosen.fold)
        history = [epoch_entry(1, 1.5), epoch_entry(2, 1.2)]
        return reports.fold_report(chosen, data, seen, history, 1, temperature), seen

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
    assert f"UAR: {np.mean(recalls):.3f} +- " in report_html.markdown(report)


def test_the_random_protocol_is_called_leaky_wherever_a_figure_stands(fold_report, fake_data_dir):
    report, _ = fold_report(fake_data_dir, protocol="random")
    assert "random LEAKY (leaky: clips dealt at random" in report_html.markdown(report)
    honest, _ = fold_report(fake_data_dir)
    assert "leaky" not in report_html.markdown(honest).lower()


def test_provenance_and_selection_stand_beside_the_figures(fold_report, fake_data_dir):
    text = report_html.markdown(fold_report(fake_data_dir, select_on="held_out")[0])
    assert text.startswith("# test: 6 held-out clips (made-up data)")
    assert "selection: held_out (epoch chosen on the held-out fold itself" in text
    assert "optimistic" in text
    assert "1 actors (ravdess/01)" in text


def test_files_say_what_the_report_says(fold_report, fake_data_dir, tmp_path):
    report, seen = fold_report(fake_data_dir)
    reports.write(tmp_path, report)
    reports.write_predictions(tmp_path, seen, EMOTIONS[:6])
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
    report["held_out"] |= reports.figures(confusion, EMOTIONS[:6])
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
        report["held_out"] |= reports.figures(
            np.roll(np.diag([4] * 6), shift, axis=1), EMOTIONS[:6]
        )
        report_figures.confusion_figure(report).savefig(tmp_path / "c.png")
        brightness.append(matplotlib.image.imread(tmp_path / "c.png")[..., 0])
    changed = np.argwhere(np.abs(brightness[0] - brightness[1]) > 0.5)
    assert len(changed) > 1000
    # The diagonal's cells lie from top left to bottom right and were dark in the first alone.
    was_dark = np.argwhere((brightness[0] < 0.3) & (brightness[1] > 0.7))
    assert np.corrcoef(was_dark.T)[0, 1] > 0.9


def test_model_sizes_stand_in_the_settings(fold_report, fake_data_dir):
    report, _ = fold_report(fake_data_dir, model=ModelConfig(l2=0.25))
    assert report["settings"]["model"]["l2"] == 0.25


class _Page(HTMLParser):
    """What a page shows, and what it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.images: list[str] = []
        self.loads: list[str] = []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._in_style = tag == "style"
        for name, value in attrs:
            if name in ("src", "href"):
                (self.images if value.startswith("data:image/png;base64,") else self.loads).append(
                    value
                )

    def handle_data(self, data):
        if not self._in_style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_shows_everything_and_loads_nothing(fold_report, two_corpora_dir, tmp_path):
    report, seen = fold_report(two_corpora_dir, learning_rate=0.0123)
    reports.write(tmp_path, report)
    page = _Page((tmp_path / run_dir.REPORT_HTML).read_text())
    assert page.loads == []
    assert len(page.images) == 4  # confusion matrices, also beside raters, curves, reliability
    for words in (
        "12 held-out clips (made-up data)",
        "Figures are of made-up data; they say nothing about people.",
        f"{report['held_out']['uar']:.3f} unweighted average recall",
        "nobody in the held-out fold was trained on",
        "crema_d/1001",
        "UAR of the intended emotion",
        "temperature not calibrated",
        "learning_rate 0.0123 0.001",
    ):
        assert words in re.sub(r"\s+", " ", page.text)
    predicted = seen.probabilities.argmax(axis=1)
    wrong = [
        i for i, right in zip(seen.example_ids, predicted == seen.labels, strict=True) if not right
    ]
    assert {e["example_id"] for e in report["held_out"]["errors"]} == set(wrong)
    for example_id in wrong:
        assert example_id in page.text


def test_the_surest_error_comes_first(fold_report, fake_data_dir):
    _, seen = fold_report(fake_data_dir)
    errors = reports.surest_errors(seen, EMOTIONS[:6], most=2)
    predicted = seen.probabilities.argmax(axis=1)
    shares = np.where(predicted == seen.labels, 0, seen.probabilities.max(axis=1))
    assert errors[0]["example_id"] == seen.example_ids[shares.argmax()]
    assert [e["probability"] for e in errors] == pytest.approx(np.sort(shares)[::-1][:2])
    assert all(e["probability_of_true"] < e["probability"] for e in errors)


def test_actors_add_up_to_the_whole_within_a_fold_and_over_folds(fold_report, fake_data_dir):
    folds = [fold_report(fake_data_dir, fold=fold, protocol="random")[0] for fold in range(5)]
    for report in (*folds, reports.folds_report(folds)):
        whole = np.array(report["held_out"]["confusion_matrix"]["clips"])
        parts = [part["confusion"] for part in report["held_out"]["by_actor"].values()]
        np.testing.assert_array_equal(np.sum(parts, axis=0), whole)
    by_actor = reports.folds_report(folds)["held_out"]["by_actor"]
    assert {actor: part["clips"] for actor, part in by_actor.items()} == {
        f"ravdess/{actor:02d}": 6 for actor in range(1, 6)
    }


def test_seeds_are_averaged_within_a_fold_before_the_interval(fold_report, fake_data_dir):
    def of(fold, seed, uar):
        report = fold_report(fake_data_dir, fold=fold, seed=seed)[0]
        return report | {"held_out": report["held_out"] | {"uar": uar}}

    uars = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.5, (1, 1): 0.9}
    report = reports.folds_report([of(fold, seed, uar) for (fold, seed), uar in uars.items()])
    over = report["held_out"]["uar_over_folds"]
    assert (report["folds"], report["seeds"], report["interval_over"]) == ([0, 1], [0, 1], "folds")
    assert over["by_fold"] == pytest.approx([0.3, 0.7])
    low, high = stats.t.interval(0.95, 1, 0.5, stats.sem([0.3, 0.7]))
    assert over["half_width_95"] == pytest.approx((high - low) / 2)
    assert "over folds" in report_html.markdown(report)

    report = reports.folds_report([of(0, seed, uars[0, seed]) for seed in (0, 1)])
    assert report["interval_over"] == "seeds"
    assert report["held_out"]["uar_over_folds"]["by_fold"] == [0.2, 0.4]
    assert "- UAR by seed: 0.200 0.400" in report_html.markdown(report)


def test_the_page_over_folds_has_each_fold_and_the_interval(fold_report, fake_data_dir, tmp_path):
    folds = [fold_report(fake_data_dir, fold=fold)[0] for fold in range(5)]
    reports.write(tmp_path, reports.folds_report(folds))
    page = _Page((tmp_path / run_dir.REPORT_HTML).read_text())
    assert len(page.images) == 4
    recalls = [fold["held_out"]["uar"] for fold in folds]
    low, high = stats.t.interval(0.95, 4, np.mean(recalls), stats.sem(recalls))
    assert f"{np.mean(recalls):.3f} +- {(high - low) / 2:.3f} (95 % interval" in page.text
    for fold, recall in enumerate(recalls):
        assert re.search(rf"\b{fold} 0 6 {recall:.3f}", page.text)


def test_the_model_stands_beside_the_raters_of_the_same_clips(fold_report, two_corpora_dir):
    folds = [fold_report(two_corpora_dir, fold=fold) for fold in range(5)]
    seen = [seen for _, seen in folds]
    ids = np.concatenate([one.example_ids for one in seen])
    rated = np.char.startswith(ids, "crema_d")
    labels = np.concatenate([one.labels for one in seen])[rated]
    predicted = np.concatenate([one.probabilities.argmax(axis=1) for one in seen])[rated]
    votes = raters.votes(list(ids[rated]), "face")  # the model is given landmarks
    majority = raters.majority(votes)
    told = reports.folds_report([report for report, _ in folds])["held_out"]["raters"]
    assert told["clips"] == 30
    assert told["model_uar"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    recalls = [np.mean(majority[labels == label] == label) for label in range(6)]
    assert told["majority_recall"] == pytest.approx(recalls)
    assert np.sum(np.array(told["majority"])[:, -1]) == (majority < 0).sum() == told["ties"]
    np.testing.assert_array_equal(np.sum(told["votes"], axis=0), votes.sum(axis=0))
    one_vote = [votes[labels == k, k].sum() / votes[labels == k].sum() for k in range(6)]
    assert told["votes_recall"] == pytest.approx(one_vote)
    assert told["agreement"] == np.mean((majority == predicted)[majority >= 0])


def test_recall_by_sex_and_age_is_a_mean_over_actors(fold_report, two_corpora_dir):
    report = reports.folds_report([fold_report(two_corpora_dir, fold=f)[0] for f in range(5)])
    by_actor, groups = (report["held_out"][key] for key in ("by_actor", "by_group"))
    women = [a for a in by_actor if raters.sex(*a.split("/")) == "female"]
    recalls = [by_actor[actor]["uar"] for actor in women]
    low, high = stats.t.interval(0.95, len(women) - 1, np.mean(recalls), stats.sem(recalls))
    found = groups["sex"]["female"]
    assert (found["actors"], found["clips"]) == (len(women), 6 * len(women))
    assert found["uar"] - found["half_width_95"] == pytest.approx(low)
    assert found["uar"] + found["half_width_95"] == pytest.approx(high)
    assert sum(group["actors"] for group in groups["age"].values()) == 5  # RAVDESS gives no ages
    assert f"| female | {len(women)} |" in report_html.markdown(report)


def test_probabilities_are_reported_before_and_after_calibration(fold_report, fake_data_dir):
    folds = [fold_report(fake_data_dir, temperature=2.0, fold=fold) for fold in range(5)]
    report, seen = folds[0]
    found = report["held_out"]["calibration"]
    np.testing.assert_equal(found["before"], calibration.figures(seen.probabilities, seen.labels))
    after = reports.at_temperature(seen, 2.0)
    np.testing.assert_equal(found["after"], calibration.figures(after.probabilities, seen.labels))
    assert report["held_out"]["errors"] == reports.surest_errors(after, EMOTIONS[:6])
    pooled = reports.folds_report([report for report, _ in folds])["held_out"]["calibration"]
    labels = np.concatenate([seen.labels for _, seen in folds])
    together = np.concatenate([seen.probabilities for _, seen in folds])
    whole = calibration.figures(together, labels)
    assert [pooled["before"][k] for k in ("ece", "brier", "cross_entropy")] == pytest.approx(
        [whole[k] for k in ("ece", "brier", "cross_entropy")]
    )
    assert pooled["before"]["bins"]["clips"] == whole["bins"]["clips"]
    assert "temperature: 2.000, fitted to the fold selected on" in report_html.markdown(report)


def test_the_page_of_a_random_split_says_leaky(fold_report, fake_data_dir):
    leaky = report_html.page(fold_report(fake_data_dir, protocol="random")[0])
    assert '<p class="note">Leaky. Clips dealt at random' in leaky
    honest = report_html.page(fold_report(fake_data_dir)[0])
    assert "leaky" not in honest.lower()


def test_only_settings_that_differ_are_listed(settings, fold_report, fake_data_dir):
    report, _ = fold_report(fake_data_dir, augment=None, batch_size=24)
    changed = {name: here for name, here, _ in report_html.changed_settings(report["settings"])}
    assert changed["augment"] == "off"
    assert changed["epochs"] == 2
    assert changed["model.tcn_filters"] == 4
    assert not changed.keys() & {"batch_size", "seed", "model.num_landmarks", "name", "modalities"}


def test_held_out_figures_are_there_for_tensorboard(fold_report, fake_data_dir, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report, _ = fold_report(fake_data_dir)
    reports.write_events(tmp_path, report)
    events = EventAccumulator(str(tmp_path / run_dir.TENSORBOARD))
    events.Reload()
    found = {
        tag: tf.make_ndarray(events.Tensors(tag)[0].tensor_proto).item()
        for tag in events.Tags()["tensors"]
    }
    assert found["held_out/uar"] == pytest.approx(report["held_out"]["uar"])
    recall = report["held_out"]["by_class"]["sad"]["recall"]
    assert found["held_out_recall/sad"] == pytest.approx(recall)
    assert events.Tensors("held_out/uar")[0].step == 1
