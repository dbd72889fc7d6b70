"""The settings of a stream: at most 16 arguments, and an old name is told its new place."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from emotion_tfdata import Features, Reading, make_dataset


def test_a_stream_has_at_most_sixteen_arguments():
    assert len(inspect.signature(make_dataset).parameters) <= 16


@pytest.mark.parametrize(
    ("old", "told"),
    [
        (
            {"landmarks": "expressive"},
            r"^make_dataset: give features=Features\(landmarks=\.\.\.\)$",
        ),
        ({"cache": True}, r"^make_dataset: give reading=Reading\(cache=\.\.\.\)$"),
        ({"with_ids": True, "shard": (0, 2)}, r"Features\(with_ids=.*, reading=Reading\(shard="),
    ],
)
def test_an_old_argument_is_told_its_new_place(old, told):
    with pytest.raises(TypeError, match=told):
        make_dataset("nowhere", "train", **old)


def test_a_name_that_never_was_is_refused_as_python_does():
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        make_dataset("nowhere", "train", batchsize=3)


def test_equal_choices_are_equal_and_can_be_keys():
    assert {Features(landmarks=[4, 1]): 1}[Features(landmarks=(4, 1))] == 1
    assert dataclasses.replace(Features("audio"), with_ids=True) == Features("audio", with_ids=True)
    assert Reading(shard=[0, 2]) == Reading(shard=(0, 2))


def test_head_needs_the_landmarks(fake_data_dir):
    with pytest.raises(ValueError, match="head=True needs the landmarks"):
        make_dataset(fake_data_dir, "all", features=Features("audio", head=True))
