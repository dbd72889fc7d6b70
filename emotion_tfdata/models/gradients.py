"""Gradients of our own, where somebody wants one."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

_wanted = contextvars.ContextVar("own_gradients_wanted", default=True)


def own_gradient(function: Callable[..., tuple[Any, Callable[..., Any]]]) -> Callable[..., Any]:
    """Apply `tf.custom_gradient`, unless `without_own_gradients` leaves TensorFlow's own."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return tf.custom_gradient(function)(*args) if _wanted.get() else function(*args)[0]

    return call


@contextlib.contextmanager
def without_own_gradients() -> Iterator[None]:
    """Leave out gradients of our own, for inference: they are slow to trace, save and load."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)
