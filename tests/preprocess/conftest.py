"""Drawn clips in the forms that the corpora's files have, and builds without workers."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_tfdata.dataset.manifest import Manifest
from preprocess.builder.workspace import Workspace
from preprocess.drawn import sample
from preprocess.drawn.sample_encode import NTSC_FRAME_RATE, encode_clip
from preprocess.drawn.sample_render import DrawnClip, draw_clip


class Here:
    """Does a build's work in this process, where workers are beside the point and cost seconds."""

    def __init__(self, function, num_workers, *_, **__):
        self._function = function

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, tasks, timeout_s=None):
        for task in tasks:
            yield task, self._function(task)


@pytest.fixture(scope="session")
def here() -> type[Here]:
    return Here


@pytest.fixture(scope="session")
def in_process() -> dict[str, Any]:
    """Arguments of `build` for one that starts no process."""
    return {"num_workers": 1, "make_pool": Here}


@pytest.fixture(scope="session")
def learns() -> Callable[..., Any]:
    """Trains a small model on a data set, which must learn it, and returns its settings."""
    from emotion_tfdata import Augment, Reading, make_dataset
    from emotion_tfdata.training.data import with_ids_apart
    from emotion_tfdata.training.learner import Learner
    from emotion_tfdata.training.run import model_config
    from emotion_tfdata.training.settings import Settings

    def check(data_dir, features, small, num_epochs):
        model = model_config(str(data_dir), features, small, ())
        learner = Learner(Settings("own", model, features=features), np.ones(2, np.float32))
        options = {"batch_size": 4, "features": features, "reading": Reading(num_buckets=1)}
        epochs = make_dataset(
            data_dir, "train", num_epochs=num_epochs, augment=Augment(), **options
        )
        losses = [learner.train(batch, labels).loss for batch, labels, _ in with_ids_apart(epochs)]
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
        held_out = learner.predict(make_dataset(data_dir, "test", **options))
        assert (held_out.probabilities.argmax(axis=1) == held_out.labels).all()
        return model

    return check


@pytest.fixture(scope="session")
def claim() -> Callable[..., contextlib.AbstractContextManager[Manifest | None]]:
    """Holds a workspace's folder as a build does."""

    @contextlib.contextmanager
    def claimed(
        workspace: Workspace, description: Mapping[str, Any], overwrite: bool = False
    ) -> Iterator[Manifest | None]:
        with workspace.held():
            yield workspace.take_over(description, overwrite)

    return claimed


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file and what its container adds to the clip's own times."""

    path: Path
    offset_s: float


@pytest.fixture(scope="session")
def drawn() -> DrawnClip:
    """A second of a drawn face that speaks."""
    settings = sample.SampleSettings(
        num_actors=1, clips_per_actor=1, min_duration_s=1.0, max_duration_s=1.0
    )
    return draw_clip(sample.plan_clips(settings)[0])


_FORMS = {
    ".mp4": {"container": "mp4", "video_codec": "libx264", "audio_codec": "aac"},
    ".flv": {"container": "flv", "video_codec": "flv", "audio_codec": "libmp3lame"},
    ".wav": {"container": "wav", "audio_codec": "pcm_s16le"},
}


@pytest.fixture(scope="session")
def encode(drawn) -> Callable[..., Encoded]:
    """Writes a clip: by default the drawn one, with `picture` and `sound` as given."""

    def write(
        path: Path,
        *,
        clip: DrawnClip = drawn,
        picture: bool | list[np.ndarray] = True,
        sound: bool | np.ndarray = True,
        frame_rate: Fraction | float = NTSC_FRAME_RATE,
        audio_rate_hz: int = 48000,
        start_offset_s: float = 0.0,
    ) -> Encoded:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".wav":
            picture = False
        pictures = picture if isinstance(picture, list) else None
        if picture is True:
            pictures = list(clip.pictures(frame_rate, start_offset_s, width=240, height=180))
        samples = sound if isinstance(sound, np.ndarray) else None
        if sound is True:
            samples = clip.audio(audio_rate_hz)
        offset_s = encode_clip(
            path,
            pictures,
            samples,
            frame_rate=frame_rate,
            audio_rate_hz=audio_rate_hz,
            start_offset_s=start_offset_s,
            **_FORMS[path.suffix],
        )
        return Encoded(path, offset_s)

    return write


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., bytes]:
    """Runs ffmpeg, an independent one, and gives what it writes to its standard output."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    program = imageio_ffmpeg.get_ffmpeg_exe()

    def run(*arguments: object) -> bytes:
        command = [program, "-v", "error", "-y", *(str(each) for each in arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def blank_pictures() -> list[np.ndarray]:
    """A second of nothing, 25 pictures/s."""
    return [np.full((180, 240, 3), 120, np.uint8)] * 25
