"""The models: a branch for the voice, one for the face, and what joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emotion_tfdata.models.config import ModelConfig

if TYPE_CHECKING:
    from emotion_tfdata.models.model import EmotionModel, build_model

__all__ = ["EmotionModel", "ModelConfig", "build_model"]


def __getattr__(name: str) -> Any:
    """Load Keras when a model is first asked for: settings and flags need none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from emotion_tfdata.models import backend

    backend.check()
    from emotion_tfdata.models import model

    return getattr(model, name)
