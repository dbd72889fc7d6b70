"""What an ablation says of its trainings: intervals, tables, page."""

from __future__ import annotations

import dataclasses
import html.parser
import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata.grid.ablation import intervals, page, plan, plot, summary
from emotion_tfdata.grid.ablation import training as folders
from emotion_tfdata.grid.ablation.plan import DataSet, Plan, Training
from emotion_tfdata.grid.ablation.training import Outcome
from emotion_tfdata.training import metrics


@given(st.integers(1, 4), st.integers(1, 6), st.lists(st.floats(0, 1), min_size=24, max_size=24))
def test_the_interval_is_students_t_over_the_folds_means_over_seeds(seeds, folds, values):
    array = np.array(values[: seeds * folds]).reshape(seeds, folds)
    by_key = {(s, f): float(array[s, f]) for s in range(seeds) for f in range(folds)}
    several = folds > 1
    found = intervals.estimate(by_key, several)
    units = array.mean(axis=0) if several else array[:, 0]
    assert (found.units, found.count) == ("folds" if several else "seeds", len(units))
    assert found.mean == pytest.approx(units.mean())
    if len(units) == 1:
        assert found.half_width is None
        return
    sem = scipy.stats.sem(units)
    half_width = scipy.stats.t.ppf(0.975, len(units) - 1) * sem
    assert found.half_width == pytest.approx(half_width, rel=1e-9, abs=1e-12)
    # The same as train.py's own report over folds, where there is one seed.
    own = metrics.mean_interval(units.tolist())
    assert found.half_width == pytest.approx(own.half_width, rel=1e-9, abs=1e-12)


def test_nothing_measured_has_no_estimate():
    assert intervals.estimate({}, True) is None


def test_seeds_of_several_folds_are_not_taken_for_independent_values():
    with pytest.raises(ValueError, match="over seeds"):
        intervals.estimate({(0, 0): 0.5, (0, 1): 0.5}, False)


def outcome(uar, *, corpora=("crema_d", "ravdess")):
    figures = {part: {"uar": uar, "accuracy": uar + 0.01} for part in ("all", *corpora)}
    return Outcome(
        figures=figures,
        clips=(144, 72, 72),
        actors=4,
        best_epoch=3,
        epochs=5,
        seconds=12.5,
        selection="inner (on another fold)",
    )


@pytest.fixture
def make_plan(tmp_path):
    def make(*, provenance="drawn clips", folds=(0, 1, 2), seeds=2, protocols=plan.PROTOCOLS):
        data = DataSet(
            tmp_path,
            "a" * 64,
            provenance,
            dict.fromkeys(protocols, 5),
            dict.fromkeys(protocols, folds),
            dict.fromkeys(protocols, ("clips of savee have no part in it",)),
        )
        systems = ("baseline", "tcn_video", "tcn")
        return Plan(
            data=data,
            model_dir=tmp_path,
            systems=systems,
            protocols=protocols,
            seeds=tuple(range(seeds)),
            folds=data.filled,
            train_args=("--epochs=5",),
            flags={name: (f"--name={name}", "--epochs=60") for name in systems},
        )

    return make


def test_how_trainings_were_run_is_what_was_noted_of_each(make_plan):
    of = make_plan()
    finished = {
        t: dataclasses.replace(outcome(0.5), how="2 at a time" if t.seed else "1 at a time")
        for t in of.trainings
    }
    assert summary.summarize(of, finished, {})["how"] == ["1 at a time", "2 at a time"]


def results(of, uar=lambda t: 0.5):
    return {training: outcome(uar(training)) for training in of.trainings}


def text_of(of, finished, unfinished=None):
    found = summary.summarize(of, finished, unfinished or {})
    return page.markdown(found)


def test_a_training_that_is_missing_is_said_and_not_averaged_around_in_silence(make_plan):
    of = make_plan(provenance="", protocols=("actor",))
    finished = results(of, lambda t: 0.6 if t.system == "baseline" else 0.9)
    missing = Training(1, 2, "actor", 2, "tcn")
    del finished[missing]
    unfinished = {missing: "failed: train.py: the disk is full"}
    for fold in (1, 2):
        other = Training(0, fold, "actor", 2, "tcn")
        del finished[other]
        unfinished[other] = "waiting"
    text = text_of(of, finished, unfinished)
    assert "15 of 18 trainings are done" in text
    assert "- actor/tcn/seed-1/fold-2: failed: train.py: the disk is full" in text
    assert "- waiting: 2\n" in text
    assert "| tcn (3 of 6 trainings) |" in text
    assert "| baseline | 0.600" in text
    assert "| tcn_video | 0.900" in text


def test_differences_pair_the_same_seed_and_fold(make_plan):
    of = make_plan(protocols=("actor",))
    # What is common to a fold is in both and cancels; the rest is 0.1 everywhere.
    finished = results(of, lambda t: 0.3 * t.fold + 0.1 * (t.system == "tcn"))
    figures = summary.summarize(of, finished, {})["protocols"]["actor"]["parts"]["all"]
    difference = figures["tcn"]["uar_minus_baseline"]
    assert difference["mean"] == pytest.approx(0.1)
    assert difference["half_width"] == pytest.approx(0, abs=1e-12)
    assert figures["tcn"]["uar"]["half_width"] > 0.5
    assert "uar_minus_baseline" not in figures["baseline"]


def test_random_is_called_leaky_and_says_what_that_means(make_plan):
    of = make_plan()
    text = text_of(of, results(of))
    leaky = text[text.index("## Protocol random") :]
    assert leaky.startswith("## Protocol random: leaky")
    assert "the same sentences in the same voices, are trained on and tested on" in leaky
    assert "leaky" not in text[text.index("## Protocol actor") : text.index("## Protocol random")]


def test_a_published_protocol_is_told_with_whose_figures_it_stands_beside(make_plan):
    of = make_plan(protocols=("hicmae", "actor"))
    text = text_of(of, results(of))
    told = text[text.index("## Protocol hicmae\n") : text.index("## Protocol actor\n")]
    assert "CREMA-D alone, five published folds" in told
    assert "Used by HiCMAE and others" in told
    assert "Held out: folds 0, 1, 2 of 5" in told
    assert "- clips of savee have no part in it" in told


def test_the_documents_figures_stand_beside_with_what_they_are(make_plan):
    of = make_plan()
    text = text_of(of, results(of))
    rows = [line for line in text.splitlines() if line.startswith("| baseline ")]
    assert sum(row.endswith("| 0.841 |") for row in rows) == 2  # once a protocol, over all clips
    assert "not to be compared with" in text


@pytest.mark.parametrize(
    ("folds", "seeds", "says"),
    [
        ((0, 1, 2), 2, r"Student's t over the folds (2 degrees of freedom"),
        ((0,), 3, "Student's t over seeds (2 degrees of freedom"),
        ((0,), 1, "One fold and one seed: no interval."),
    ],
)
def test_the_method_is_named(make_plan, folds, seeds, says):
    of = make_plan(folds=folds, seeds=seeds)
    assert says in text_of(of, results(of))


def test_real_recordings_are_not_called_anything_else(make_plan):
    of = make_plan(provenance="")
    assert text_of(of, results(of)).startswith("# Ablation\n")


def test_the_page_is_whole_and_needs_nothing_else(make_plan):
    of = make_plan()
    finished = results(of, lambda t: 0.5 + 0.1 * t.fold * t.number)
    finished = {t: dataclasses.replace(one, how="<&>") for t, one in finished.items()}
    found = summary.summarize(of, finished, {})
    text = page.page(found)
    seen = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, dict(attrs)))

    Parser().feed(text)
    pictures = [attrs["src"][:22] for tag, attrs in seen if tag == "img"]
    assert pictures == ["data:image/png;base64,"] * 2
    assert not [
        attrs for tag, attrs in seen if "href" in attrs or ("src" in attrs and tag != "img")
    ]
    assert "&lt;&amp;&gt;" in text
    assert "drawn clips" in text
    json.dumps(found, allow_nan=False)


def test_the_plot_places_means_and_intervals_to_scale(make_plan):
    of = make_plan(protocols=("actor",))
    finished = results(of, lambda t: 0.5 + t.number * (0.1 + 0.05 * t.fold))
    systems = summary.summarize(of, finished, {})["protocols"]["actor"]["parts"]["all"]
    figure = plot.forest("actor", systems)
    panel, accuracy = figure.axes
    (interval,) = panel.containers
    line, _, (bars,) = interval
    expected = [systems[name]["uar_minus_baseline"] for name in ("tcn_video", "tcn")]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["tcn_video", "tcn"]
    np.testing.assert_allclose(line.get_xdata(orig=False), [one["mean"] for one in expected])
    for segment, one in zip(bars.get_segments(), expected, strict=True):
        ends = one["mean"] - one["half_width"], one["mean"] + one["half_width"]
        np.testing.assert_allclose(segment[:, 0], ends)
    # Nothing but an interval leaves the drawing.
    low, high = panel.get_xlim()
    for points in panel.lines:
        assert all(low <= x <= high for x in points.get_xdata(orig=False))
    assert accuracy.get_title() == "accuracy"


def test_what_decides_a_trainings_outcome_is_asked_for_and_nothing_else(make_plan):
    of = make_plan()
    training = of.trainings[0]
    request = of.request(training)
    elsewhere = dataclasses.replace(
        of, train_args=("--epochs=5", "--intra_op_threads=3", "--checkpoint_every_s=5")
    )
    assert elsewhere.request(training) == request
    assert dataclasses.replace(of, train_args=("--epochs=6",)).request(training) != request
    data = dataclasses.replace(of.data, sha256="b" * 64)
    assert dataclasses.replace(of, data=data).request(training) != request


def test_seeds_come_first_so_that_every_system_has_a_figure_early(make_plan):
    of = make_plan()
    first = of.trainings[: len(of.systems) * len(of.protocols)]
    assert {training.system for training in first} == set(of.systems)
    assert {(training.seed, training.fold) for training in first} == {(0, 0)}
    assert len({training.name for training in of.trainings}) == 3 * 2 * 2 * 3


def test_what_a_system_changes_is_read_from_the_flagfiles():
    read = {name: plan._read_flags(plan.flagfile(name)) for name in plan.SYSTEMS}
    of = Plan(DataSet("", "", "", {}, {}, {}), "", tuple(read), (), (), {}, (), read)
    changes = {name: of.changes(name) for name in read}
    assert changes["baseline"] == []
    assert changes["regularization"] == ["--l2=0.001"]
    assert changes["optimizer"] == ["--learning_rate=0.001"]
    assert changes["tcn_video"] == ["--video=tcn", "--l2_tcn=0.001"]
    assert changes["sync_aug"][0] == "--augment"
    assert set(changes["tcn"]) == {
        *changes["regularization"], *changes["optimizer"], *changes["tcn_video"],
        *changes["sync_aug"],
    }  # fmt: skip


def test_a_training_that_was_made_by_hand_is_not_taken_for_the_ablations(tmp_path):
    request = {"flags": ["--epochs=1"], "data_manifest_sha256": "a"}
    assert folders.differences(tmp_path, request) == []
    (tmp_path / "settings.json").write_text("{}")
    assert folders.differences(tmp_path, request) == ["it was not made by an ablation"]


def test_without_the_baseline_there_are_no_differences_and_the_page_says_so(make_plan):
    of = dataclasses.replace(make_plan(protocols=("actor",)), systems=("tcn",))
    text = text_of(of, results(of))
    assert "The baseline is not among the systems, so there are no differences to it." in text
    assert "minus" not in text
    assert "baseline's |" not in text
