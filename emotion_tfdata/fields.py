"""Fields of settings, each defined once: default, meaning and range, for checks, help and flags."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from absl import flags

T = TypeVar("T")


def setting(
    default: Any,
    meaning: str,
    interval: str = "(-inf, inf)",
    choices: Collection[str] = (),
    flag: str | None = "",
) -> Any:
    """Describe a field of a dataclass.

    Args:
      default: its value where none is given.
      meaning: for the class's documentation and for `--help`.
      interval: that each of its numbers lies in, such as "(0, 1]" or "[0, inf)".
      choices: the values it may have, where they are few.
      flag: its flag's name, if that is not the field's; None for no flag.
    """
    about = {"meaning": meaning, "interval": interval, "choices": choices, "flag": flag}
    return dataclasses.field(default=default, metadata=about)


def documented(cls: type[T]) -> type[T]:
    """Add the described fields of a dataclass to its documentation."""
    lines = [inspect.cleandoc(cls.__doc__ or "")]
    if "Attributes:" not in lines[0]:
        lines += ["", "Attributes:"]
    for field in _described(cls):
        text = f"  {field.name}: {field.meaning}."
        lines.append(textwrap.fill(text, 100, subsequent_indent="    "))
    cls.__doc__ = "\n".join(lines)
    return cls


def check(settings: Any) -> None:
    """Check every described field of a dataclass; a list becomes the tuple that it stands for.

    Raises:
      ValueError: for the first value that is not allowed; the message names the field.
    """
    for field in _described(settings):
        value = getattr(settings, field.name)
        if field.is_tuple and isinstance(value, list):  # JSON knows no tuples
            value = tuple(value)
            object.__setattr__(settings, field.name, value)
        if not field.allows(value):
            raise ValueError(f"{field.name} must be {field.allowed}, got {value!r}")


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number, numpy's included, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def define_flags(values: flags.FlagValues, cls: type, prefix: str = "", **defaults: Any) -> None:
    """Define a flag for each described field of a dataclass.

    Args:
      values: that get the flags.
      cls: the dataclass.
      prefix: of the flags' names.
      defaults: of flags, by field, where they are not the fields'.
    """
    from absl import flags

    flags.disclaim_key_flags()  # they are the caller's
    for field in _described(cls):
        if field.flag is None:
            continue
        name, kind, meaning = prefix + field.flag, field.kind, field.meaning
        default = defaults.get(field.name, field.default)
        bounds: dict[str, Any] = {}
        if kind in ("int", "float"):
            number = int if kind == "int" else float
            low, high = field.interval[1:-1].split(", ")
            if field.interval[0] == "[":
                bounds["lower_bound"] = number(low)
            if field.interval[-1] == "]":
                bounds["upper_bound"] = number(high)
            if field.is_tuple or (high != "inf" and len(bounds) < 2):  # else absl says it
                meaning += f" (in {field.interval})"
        if field.choices:
            flags.DEFINE_enum(name, default, list(field.choices), meaning, flag_values=values)
        elif field.is_tuple:
            texts = [f"{item:g}" if isinstance(item, float) else str(item) for item in default]
            flags.DEFINE_list(name, texts, meaning, flag_values=values)
        else:
            define = {"int": "integer", "str": "string"}.get(kind, kind)
            getattr(flags, f"DEFINE_{define}")(name, default, meaning, flag_values=values, **bounds)


def from_flags(values: flags.FlagValues, cls: type[T], prefix: str = "", **others: Any) -> T:
    """Make a dataclass of what its flags say.

    Args:
      values: the flags.
      cls: the dataclass.
      prefix: as `define_flags` got it.
      others: fields that are not taken from their flags.

    Raises:
      ValueError: for values that are not allowed.
    """
    for field in _described(cls):
        if field.flag is None or field.name in others:
            continue
        value: Any = values[prefix + field.flag].value
        if field.is_tuple and field.kind != "str":
            try:
                value = [int(item) if field.kind == "int" else float(item) for item in value]
            except ValueError as error:
                given = f"--{prefix}{field.flag}={','.join(value)}"
                raise ValueError(f"{given}: give {field.allowed}, separated by commas") from error
        others[field.name] = tuple(value) if field.is_tuple else value
    return cls(**others)


class _Described:
    """A described field; its annotation says what it holds, and whether one or several."""

    def __init__(self, field: dataclasses.Field[Any]) -> None:
        self.name, self.default, about = field.name, field.default, field.metadata
        self.meaning, self.interval, self.choices = (
            about[key] for key in ("meaning", "interval", "choices")
        )
        self.flag = field.name if about["flag"] == "" else about["flag"]
        items = re.fullmatch(r"tuple\[(\w+)((?:, \w+)*|, \.\.\.)\]", str(field.type))
        self.kind = items[1] if items else str(field.type).split(" ")[0]
        self.is_tuple = bool(items)
        # None for any number of them.
        self._length = 1 + items[2].count(",") if items and "..." not in items[2] else None
        self._may_be_none = "None" in str(field.type)

    @property
    def allowed(self) -> str:
        """The values that the setting may have, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind not in ("int", "float"):
            return {"bool": "True or False"}.get(self.kind, self.kind)
        where = f"in {self.interval}"
        if self.is_tuple:
            noun = "whole numbers" if self.kind == "int" else "numbers"
            return f"{f'{self._length} ' if self._length else ''}{noun} {where}"
        return f"a whole number {where}" if self.kind == "int" else where

    def allows(self, value: Any) -> bool:
        if value is None and self._may_be_none:
            return True
        if self.choices:
            return value in self.choices
        if not self.is_tuple:
            return self._allows_one(value)
        if not isinstance(value, tuple) or (self._length and len(value) != self._length):
            return False
        return all(map(self._allows_one, value))

    def _allows_one(self, value: Any) -> bool:
        if self.kind == "bool":
            return isinstance(value, bool)
        if self.kind not in ("int", "float"):
            return True
        if isinstance(value, bool) or not isinstance(
            value, Integral if self.kind == "int" else Real
        ):
            return False
        number: Any = value
        low, high = map(float, self.interval[1:-1].split(","))
        return (low <= number if self.interval[0] == "[" else low < number) and (
            number <= high if self.interval[-1] == "]" else number < high
        )


def _described(cls: Any) -> Iterator[_Described]:
    return (_Described(field) for field in dataclasses.fields(cls) if field.metadata)
