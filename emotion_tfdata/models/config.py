"""What a model is made of: every size, rate and penalty that a flag may set. No TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Any

from emotion_tfdata.fields import check, documented, setting

_COUNT = "[1, 65536]"  # a flag with a digit too many is refused at once


def _part(default: Any, meaning: str, interval: str = "[0, 1)") -> Any:
    """Describe a field that `--model=FIELD=VALUE` sets, or the data set does."""
    return setting(default, meaning, interval, flag=None)


@documented
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The settings of `build_model`; the defaults are the combined model.

    The six systems differ, as far as the model goes, in `video`, `l2` and `l2_tcn` alone:

    | system         | video  | l2    | l2_tcn |
    |----------------|--------|-------|--------|
    | baseline       | bilstm | 0     | 0      |
    | regularization | bilstm | 0.001 | 0      |
    | sync_aug       | bilstm | 0     | 0      |
    | optimizer      | bilstm | 0     | 0      |
    | tcn_video      | tcn    | 0     | 0.001  |
    | tcn            | tcn    | 0.001 | 0.001  |

    Raises:
      ValueError: a value is outside what it can be; the message names the field.
    """

    video: str = setting("tcn", "what reads the landmarks", choices=("tcn", "bilstm"))
    audio: str = setting(
        "bilstm",
        "what reads the audio; cnn: its spectrum as a picture",
        choices=("bilstm", "cnn"),
    )
    modalities: str = setting(
        "both", "what the model is given", choices=("both", "audio", "landmarks"), flag=None
    )
    l2: float = setting(0.001, "L2 penalty on the kernel of every dense layer", "[0, 1e30)")
    l2_tcn: float = setting(0.001, "L2 penalty on the kernel of every TCN convolution", "[0, 1e30)")
    num_classes: int = _part(6, "width of the output", _COUNT)
    num_audio_features: int = _part(80, "`M` of `audio [B, Ta, M]`", _COUNT)
    num_landmarks: int = _part(478, "`L` of `landmarks [B, Tv, L, 3]`", _COUNT)
    landmark_axes: int = _part(
        3, "numbers of a landmark; with 1 the model takes `landmarks [B, Tv, L]`", _COUNT
    )
    audio_filters: tuple[int, ...] = _part(
        (64, 128), "filters of the audio convolutions, of kernel size 3", _COUNT
    )
    audio_lstm_units: tuple[int, int] = _part(
        (128, 64), "units, a direction, of the two audio BiLSTMs", _COUNT
    )
    audio_lstm_dropout: float = _part(0.3, "dropout between the two")
    audio_dense_units: int = _part(
        128, "width of the audio's dense layer; the cnn's output is twice as wide", _COUNT
    )
    audio_dropout: float = _part(0.4, "dropout on the audio branch's output")
    tcn_filters: int = _part(128, "filters of every TCN convolution", _COUNT)
    tcn_kernel_size: int = _part(3, "taps of every TCN convolution", _COUNT)
    tcn_dilations: tuple[int, ...] = _part(
        (1, 2, 4, 8), "dilation, in frames, of each residual block", _COUNT
    )
    tcn_dropout: float = _part(0.2, "dropout after every TCN convolution")
    video_lstm_units: int = _part(128, "units, a direction, of the video BiLSTM", _COUNT)
    video_dense_units: int = _part(256, "width of the video branch's output", _COUNT)
    video_dropout: float = _part(0.4, "dropout on that output")
    joined_units: tuple[int, ...] = _part(
        (256, 128), "widths of the dense layers over the joined branches", _COUNT
    )
    joined_dropouts: tuple[float, ...] = _part((0.5, 0.4), "dropout after each of them")
    bn_momentum: float = _part(0.99, "share of the moving statistics that one training step keeps")
    bn_epsilon: float = _part(0.001, "added to the variance before its root is taken", "(0, 1)")

    def __post_init__(self) -> None:
        check(self)
        if len(self.joined_units) != len(self.joined_dropouts):
            raise ValueError(
                f"joined_dropouts must be one for each of joined_units, got "
                f"{self.joined_dropouts} for {self.joined_units}"
            )

    @property
    def uses_audio(self) -> bool:
        """Whether the model hears."""
        return self.modalities in ("both", "audio")

    @property
    def uses_landmarks(self) -> bool:
        """Whether the model sees."""
        return self.modalities in ("both", "landmarks")
