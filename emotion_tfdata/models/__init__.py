"""The models: a branch for the voice, one for the face, and what joins them."""

from emotion_tfdata.models import backend

backend.check()

from emotion_tfdata.models.config import MODALITIES, VIDEO_BRANCHES, ModelConfig  # noqa: E402
from emotion_tfdata.models.model import EmotionModel, build_model  # noqa: E402

__all__ = ["MODALITIES", "VIDEO_BRANCHES", "EmotionModel", "ModelConfig", "build_model"]
