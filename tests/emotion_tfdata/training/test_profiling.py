"""Which steps are profiled, what is written, and what is said of it."""

from __future__ import annotations

import re

import pytest
import tensorflow as tf

from emotion_tfdata.training.profiling import ProfiledSteps, Profiler


@pytest.mark.parametrize(("text", "steps"), [("3,5", (3, 5)), ("4", (21, 24)), ("7,7", (7, 7))])
def test_steps_are_first_and_last_or_a_number_after_the_warm_up(text, steps):
    assert ProfiledSteps.parse(text) == ProfiledSteps(*steps)


@pytest.mark.parametrize("text", ["", "x", "1,2,3", "1;2"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"profile=.*: give FIRST,LAST or a number of steps"):
        ProfiledSteps.parse(text)


@pytest.mark.parametrize("text", ["5,4", "0,3", "0", "-2"])
def test_steps_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match="the steps must be 1 <= FIRST <= LAST"):
        ProfiledSteps.parse(text)


def run(profiler, steps):
    for _ in range(steps):
        with profiler.step():
            tf.reduce_sum(tf.random.normal([64, 64]))
        profiler.ended(waited_s=0.01, took_s=0.04)
    profiler.close()


def test_a_profile_of_these_steps_is_written_and_summed_up(tmp_path):
    said = []
    run(Profiler(ProfiledSteps(2, 3), tmp_path, said.append), steps=5)
    (written,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    content = written.read_bytes()
    assert b"train" in content
    assert len(content) > 1000
    (text,) = said
    assert text.startswith("profile of steps 2 to 3: 40 ms a step (median 40), of it 25.0% waiting")
    assert str(tmp_path) in text


def test_a_training_that_ends_first_writes_what_there_is(tmp_path):
    said = []
    run(Profiler(ProfiledSteps(2, 9), tmp_path, said.append), steps=3)
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    assert said[0].startswith("profile of steps 2 to 3: ")


def test_one_that_ends_before_the_first_step_says_so(tmp_path):
    said = []
    run(Profiler(ProfiledSteps(9, 9), tmp_path, said.append), steps=3)
    assert re.match(r"nothing was profiled: this process made 3 steps, .* step 9", said[0])
    assert not list(tmp_path.iterdir())


def test_without_steps_nothing_is_done(tmp_path):
    said = []
    run(Profiler(None, tmp_path, said.append), steps=3)
    assert not said
    assert not list(tmp_path.iterdir())
