from __future__ import annotations

import pytest

from emotion_tfdata import labels


def test_six_and_eight_classes_agree_on_the_first_six_indices():
    assert labels.class_names(8)[:6] == labels.class_names(6)
    for emotion in labels.class_names(6):
        assert labels.class_index(emotion, 6) == labels.class_index(emotion, 8)


def test_calm_is_neutral_and_surprised_has_no_class_among_six():
    assert labels.class_index("calm", 6) == labels.class_index("neutral", 6)
    assert labels.class_index("surprised", 6) is None
    assert sorted(labels.class_index(e, 8) for e in labels.EMOTIONS) == list(range(8))


def test_every_name_of_both_corpora_is_an_emotion():
    names = {*labels.RAVDESS_EMOTIONS.values(), *labels.CREMA_D_EMOTIONS.values()}
    assert names == set(labels.EMOTIONS)
    assert set(labels.CREMA_D_EMOTIONS.values()) == set(labels.class_names(6))


def test_unknown_names_and_numbers_are_refused():
    with pytest.raises(ValueError, match="num_classes must be 6 or 8, got 7"):
        labels.class_names(7)
    with pytest.raises(ValueError, match="two or more different names"):
        labels.class_names(("happy", "happy"))
    with pytest.raises(ValueError, match="two or more different names"):
        labels.class_names("happy")
    assert labels.class_index("bored", 6) is None


def test_words_of_other_corpora_stand_for_their_emotions():
    assert labels.emotion_named(" Anger ", 6) == "angry"
    assert labels.emotion_named("Surprise", 6) == "surprised"  # known, without a class
    assert labels.emotion_named("bored", 6) is None
    own = ("Joy", "bored")
    assert labels.emotion_named("happiness", own) == "Joy"
    assert labels.emotion_named("BORED", own) == "bored"
    assert labels.class_index("calm", own) is None
