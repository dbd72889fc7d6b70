"""Fields of settings, from which checks, documentation and flags are made."""

from __future__ import annotations

import dataclasses

import pytest
from absl import flags

from emotion_tfdata import Augment, Features
from emotion_tfdata.fields import check, define_flags, documented, from_flags, setting
from emotion_tfdata.models import ModelConfig
from emotion_tfdata.training.settings import Settings


@documented
@dataclasses.dataclass(frozen=True)
class _Lamp:
    """Shines."""

    watts: float = setting(5.0, "power", "(0, 60]")
    bulbs: int = setting(1, "how many", "[1, 4]", flag="count")
    colour: str = setting("white", "of its light", choices=("white", "red"))
    dims: bool = setting(False, "whether it can be dimmed")
    hours: tuple[int, int] = setting((8, 20), "first and last", "[0, 24)")
    rooms: tuple[str, ...] = setting((), "where it stands")
    kelvin: float | None = setting(None, "its temperature", "[1000, 10000]", flag=None)

    def __post_init__(self) -> None:
        check(self)


def parsed(*args):
    values = flags.FlagValues()
    define_flags(values, _Lamp, "lamp_", dims=True)
    values(["program", *args])
    return values


def test_flags_make_the_settings_that_they_describe():
    assert from_flags(parsed(), _Lamp, "lamp_") == _Lamp(dims=True)
    args = ["--lamp_watts=40", "--lamp_count=2", "--lamp_colour=red", "--nolamp_dims"]
    values = parsed(*args, "--lamp_hours=6,22", "--lamp_rooms=hall,bath")
    expected = _Lamp(40.0, 2, "red", False, (6, 22), ("hall", "bath"), 2700.0)
    assert from_flags(values, _Lamp, "lamp_", kelvin=2700.0) == expected
    assert "lamp_kelvin" not in values


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"watts": 0}, r"watts must be in \(0, 60\], got 0"),
        ({"watts": float("nan")}, r"watts must be in \(0, 60\], got nan"),
        ({"watts": True}, r"watts must be in \(0, 60\], got True"),
        ({"bulbs": 1.5}, r"bulbs must be a whole number in \[1, 4\], got 1\.5"),
        ({"bulbs": 5}, r"bulbs must be a whole number in \[1, 4\], got 5"),
        ({"colour": "blue"}, "colour must be one of white, red, got 'blue'"),
        ({"dims": 1}, "dims must be True or False, got 1"),
        ({"hours": (8,)}, r"hours must be 2 whole numbers in \[0, 24\), got \(8,\)"),
        ({"hours": (8, 24)}, r"hours must be 2 whole numbers in \[0, 24\), got \(8, 24\)"),
        ({"kelvin": 10}, r"kelvin must be in \[1000, 10000\], got 10"),
    ],
)
def test_a_value_outside_its_range_is_named_with_what_it_may_be(wrong, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        _Lamp(**wrong)


def test_the_lists_of_json_become_tuples():
    assert _Lamp(hours=[6, 22], rooms=["hall"]) == _Lamp(hours=(6, 22), rooms=("hall",))


@pytest.mark.parametrize("cls", [Augment, Features, ModelConfig, Settings])
def test_the_documentation_names_every_field_in_lines_that_fit(cls):
    text = cls.__doc__
    assert text.count("Attributes:") == 1
    for field in dataclasses.fields(cls):
        assert f"\n  {field.name}: " in text or f"\n  {field.name}: " in text.replace(
            "      ", "  "
        )
    assert max(map(len, text.splitlines())) <= 100
