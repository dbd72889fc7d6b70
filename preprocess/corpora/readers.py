"""The corpora that are known by the names of their files: a module with `scan`, `actor_of` each."""

from __future__ import annotations

from types import ModuleType

from preprocess.corpora import crema_d, ravdess

READERS: dict[str, ModuleType] = {"ravdess": ravdess, "crema_d": crema_d}
