"""The models: a branch for the voice, one for the face, and what joins them."""

from emotion_tfdata.models.config import MODALITIES, VIDEO_BRANCHES, ModelConfig
from emotion_tfdata.models.model import EmotionModel, build_model

__all__ = ["MODALITIES", "VIDEO_BRANCHES", "EmotionModel", "ModelConfig", "build_model"]
