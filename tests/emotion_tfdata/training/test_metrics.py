"""Figures against scikit-learn and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from emotion_tfdata.training import metrics

pairs_of_classes = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1)


@given(pairs_of_classes)
def test_confusion_matrix_and_accuracy_are_those_of_scikit_learn(pairs):
    labels, predictions = np.array(pairs).T
    confusion = metrics.confusion_matrix(labels, predictions, 6)
    expected = reference.confusion_matrix(labels, predictions, labels=range(6))
    np.testing.assert_array_equal(confusion, expected)
    assert metrics.accuracy(confusion) == pytest.approx(
        reference.accuracy_score(labels, predictions)
    )


@given(pairs_of_classes)
def test_unweighted_average_recall_is_macro_recall_over_the_classes_that_have_clips(pairs):
    labels, predictions = np.array(pairs).T
    confusion = metrics.confusion_matrix(labels, predictions, 6)
    present = sorted(set(labels))
    expected = reference.recall_score(
        labels, predictions, labels=present, average="macro", zero_division=0
    )
    assert metrics.unweighted_average_recall(confusion) == pytest.approx(expected)


@given(pairs_of_classes)
def test_precision_and_recall_by_class_are_those_of_scikit_learn(pairs):
    labels, predictions = np.array(pairs).T
    confusion = metrics.confusion_matrix(labels, predictions, 6)
    precision, recall, _, _ = reference.precision_recall_fscore_support(
        labels, predictions, labels=range(6), zero_division=np.nan
    )
    np.testing.assert_allclose(metrics.recall_by_class(confusion), recall)
    np.testing.assert_allclose(metrics.precision_by_class(confusion), precision)


def test_without_clips_there_is_no_figure():
    confusion = metrics.confusion_matrix(np.zeros(0, int), np.zeros(0, int), 6)
    assert math.isnan(metrics.accuracy(confusion))
    assert math.isnan(metrics.unweighted_average_recall(confusion))


def test_a_class_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match=r"predictions hold class 0 to 6, there are 6"):
        metrics.confusion_matrix(np.array([0, 1]), np.array([0, 6]), 6)


def test_rows_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"labels \(2,\) and predictions \(3,\)"):
        metrics.confusion_matrix(np.zeros(2, int), np.zeros(3, int), 6)


@given(st.floats(0.55, 0.999), st.integers(1, 200))
def test_t_quantile_is_that_of_scipy(probability, degrees):
    assert metrics.t_quantile(probability, degrees) == pytest.approx(
        stats.t.ppf(probability, degrees), rel=1e-7
    )


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=30),
    st.sampled_from([0.9, 0.95]),
)
def test_mean_interval_is_that_of_scipy(values, confidence):
    interval = metrics.mean_interval(values, confidence)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    half_width = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.half_width == pytest.approx(half_width, rel=1e-7, abs=1e-12)


def test_one_value_has_no_interval():
    interval = metrics.mean_interval([0.5])
    assert interval.mean == 0.5
    assert math.isnan(interval.half_width)


def test_no_value_has_no_mean():
    with pytest.raises(ValueError, match="at least one value"):
        metrics.mean_interval([])
