"""What a model is made of: every size, rate and penalty that a flag may set."""

from __future__ import annotations

import dataclasses

_MOST = 65536  # of anything that is counted; a flag with a digit too many is refused at once
VIDEO_BRANCHES = ("tcn", "bilstm")
MODALITIES = ("both", "audio", "landmarks")


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

    Attributes:
      video: what reads the landmarks: `tcn` or `bilstm`.
      modalities: `both`, or the single one that the model listens to.
      l2: L2 penalty on the kernel of every dense layer; 0 turns it off.
      l2_tcn: L2 penalty on the kernel of every TCN convolution; 0 turns it off.
      num_classes: width of the output.
      num_audio_features: `M` of `audio [B, Ta, M]`.
      num_landmarks: `L` of `landmarks [B, Tv, L, 3]`.
      landmark_axes: numbers of a landmark; with 1 the model takes `landmarks [B, Tv, L]`.
      audio_filters: filters of the two audio convolutions, of kernel size 3.
      audio_lstm_units: units, a direction, of the two audio BiLSTMs.
      audio_lstm_dropout: dropout between the two.
      audio_dense_units: width of the audio branch's output.
      audio_dropout: dropout on that output.
      tcn_filters: filters of every TCN convolution.
      tcn_kernel_size: taps of every TCN convolution.
      tcn_dilations: dilation, in frames, of each residual block.
      tcn_dropout: dropout after every TCN convolution.
      video_lstm_units: units, a direction, of the video BiLSTM.
      video_dense_units: width of the video branch's output.
      video_dropout: dropout on that output.
      joined_units: widths of the two dense layers over the joined branches.
      joined_dropouts: dropout after each of them.
      bn_momentum: share of the moving statistics that one training step keeps.
      bn_epsilon: added to the variance before its root is taken.

    Raises:
      ValueError: a value is outside what it can be; the message names the field.
    """

    video: str = "tcn"
    modalities: str = "both"
    l2: float = 0.001
    l2_tcn: float = 0.001
    num_classes: int = 6
    num_audio_features: int = 80
    num_landmarks: int = 478
    landmark_axes: int = 3
    audio_filters: tuple[int, int] = (64, 128)
    audio_lstm_units: tuple[int, int] = (128, 64)
    audio_lstm_dropout: float = 0.3
    audio_dense_units: int = 128
    audio_dropout: float = 0.4
    tcn_filters: int = 128
    tcn_kernel_size: int = 3
    tcn_dilations: tuple[int, ...] = (1, 2, 4, 8)
    tcn_dropout: float = 0.2
    video_lstm_units: int = 128
    video_dense_units: int = 256
    video_dropout: float = 0.4
    joined_units: tuple[int, int] = (256, 128)
    joined_dropouts: tuple[float, float] = (0.5, 0.4)
    bn_momentum: float = 0.99
    bn_epsilon: float = 0.001

    def __post_init__(self) -> None:
        for name, choices in (("video", VIDEO_BRANCHES), ("modalities", MODALITIES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"ModelConfig.{name} is {getattr(self, name)!r}; choose one of {choices}."
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # JSON, and with it a saved model, knows no tuples
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if field.name in ("video", "modalities"):
                continue
            default = field.default
            if isinstance(default, tuple):
                if not isinstance(value, tuple) or not value:
                    raise ValueError(f"ModelConfig.{field.name} is {value!r}; give a tuple.")
                if field.name != "tcn_dilations" and len(value) != len(default):
                    raise ValueError(
                        f"ModelConfig.{field.name} is {value!r}; it takes {len(default)} values."
                    )
                for item in value:
                    _check(field.name, item, like=default[0])
            else:
                _check(field.name, value, like=default)

    @property
    def uses_audio(self) -> bool:
        """Whether the model hears."""
        return self.modalities in ("both", "audio")

    @property
    def uses_landmarks(self) -> bool:
        """Whether the model sees."""
        return self.modalities in ("both", "landmarks")


def _check(name: str, value: object, *, like: object) -> None:
    """Raises unless `value` is a count, a penalty or a rate, as the default `like` is."""
    if isinstance(like, int):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise ValueError(
                f"ModelConfig.{name} is {value!r}; it takes whole numbers from 1 to {_MOST}."
            )
        return
    # Float32 holds a little more.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
        raise ValueError(f"ModelConfig.{name} is {value!r}; it takes a finite number.")
    if value < 0:
        raise ValueError(f"ModelConfig.{name} is {value!r}; it takes numbers from 0 up.")
    if not name.startswith("l2") and value >= 1:
        raise ValueError(f"ModelConfig.{name} is {value!r}; it takes numbers from 0 to below 1.")
    if name == "bn_epsilon" and value == 0:
        raise ValueError("ModelConfig.bn_epsilon is 0; a constant feature would divide by it.")
