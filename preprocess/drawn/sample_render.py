"""The sample corpus: a clip as functions of time, its face and its voice on one clock."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from preprocess.drawn import sample, sample_face, sample_voice
from preprocess.drawn.sample_encode import NTSC_FRAME_RATE

# What the faces of the ring do at strength 1, beside speaking.
FACES: dict[sample.Face, sample_face.Expression] = {
    "still": sample_face.Expression(),
    "frown": sample_face.Expression(smile=-0.4, brow_height=-0.7, brow_tilt=0.9, eye_open=0.75),
    "open": sample_face.Expression(smile=0.8, brow_height=0.8, brow_tilt=-0.2, eye_open=1.3),
}
# What the voices of the ring do.
VOICES: dict[sample.Voice, sample_voice.Manner] = {
    "plain": sample_voice.Manner(),
    "tense": sample_voice.Manner(
        pitch_semitones=5.0,
        accent_semitones=4.0,
        slope_semitones=-3.0,
        open_quotient=0.45,
        tilt_hz=5000.0,
        breath=0.02,
        gain_db=6.0,
    ),
    "thin": sample_voice.Manner(
        pitch_semitones=2.5,
        accent_semitones=1.0,
        slope_semitones=2.0,
        tremor_semitones=0.6,
        open_quotient=0.85,
        tilt_hz=500.0,
        breath=0.35,
        gain_db=-6.0,
    ),
}
MOUTH_AT_FULL_LOUDNESS = 0.8


def _ramp(share: float) -> float:
    """Rise from 0 to 1 without a corner, for a share from 0 to 1."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


@dataclasses.dataclass(frozen=True)
class DrawnClip:
    """A clip as functions of the time on its own clock.

    Attributes:
        spec: What it was drawn from.
        look: The actor's face.
        throat: The actor's voice.
        envelope: Loudness of the voice; the mouth opens by `MOUTH_AT_FULL_LOUDNESS` of it.
    """

    spec: sample.ClipSpec
    look: sample_face.Look
    throat: sample_voice.Throat
    envelope: sample_voice.Envelope

    @functools.cached_property
    def _drift(self) -> tuple[np.ndarray, np.ndarray]:
        """The rates in Hz and phases of what sways slowly: four of the face, four of the head."""
        rng = self.spec.rng("drift")
        return rng.uniform(0.25, 0.9, 8), rng.uniform(0.0, 2 * np.pi, 8)

    @functools.cached_property
    def _blink_s(self) -> float:
        return float(self.spec.rng("blink").uniform(0.2, 2.5))

    def expression(self, time_s: float) -> sample_face.Expression:
        """Return the face's expression at a time."""
        acted = FACES[sample.FACE_OF[self.spec.emotion]]
        strength = self.spec.strength * (0.5 + 0.5 * _ramp(time_s / 0.6))
        rates, phases = self._drift
        sway = 0.2 * np.sin(2 * np.pi * rates[:4] * time_s + phases[:4])
        blink = 0.9 * math.exp(-(((time_s - self._blink_s) / 0.07) ** 2))
        eye_open = 1.0 + strength * (acted.eye_open - 1.0) + 0.5 * sway[3]
        return sample_face.Expression(
            mouth_open=MOUTH_AT_FULL_LOUDNESS * float(self.envelope(time_s)),
            smile=float(strength * acted.smile + sway[0]),
            brow_height=float(strength * acted.brow_height + sway[1]),
            brow_tilt=float(strength * acted.brow_tilt + sway[2]),
            eye_open=float(eye_open * (1.0 - blink)),
        )

    def pose(self, time_s: float) -> sample_face.Pose:
        """Return the pose of the head at a time."""
        rates, phases = self._drift
        x, y, roll, zoom = np.sin(2 * np.pi * 0.6 * rates[4:] * time_s + phases[4:])
        return sample_face.Pose(0.05 * x, 0.02 * y, 0.04 * roll, 1.0 + 0.015 * zoom)

    def picture(
        self, time_s: float, *, width: int, height: int, background: sample_face.Colour
    ) -> np.ndarray:
        """Draw the picture at a time: `[height, width, 3]` uint8 RGB."""
        return sample_face.draw_face(
            self.look,
            self.expression(time_s),
            self.pose(time_s),
            width=width,
            height=height,
            background=background,
        )

    def picture_times_s(
        self, frame_rate: Fraction | float = NTSC_FRAME_RATE, start_offset_s: float = 0.0
    ) -> np.ndarray:
        """Return when the pictures of a file of this clip are shown: `[pictures]`."""
        count = math.ceil((self.spec.duration_s - start_offset_s) * float(frame_rate) - 1e-9)
        return start_offset_s + np.arange(count) / float(frame_rate)

    def pictures(
        self,
        frame_rate: Fraction | float = NTSC_FRAME_RATE,
        start_offset_s: float = 0.0,
        *,
        width: int = 320,
        height: int = 240,
        background: sample_face.Colour = (238, 238, 236),
    ) -> Iterator[np.ndarray]:
        """Yield the pictures at `picture_times_s`, one at a time."""
        for time_s in self.picture_times_s(frame_rate, start_offset_s):
            yield self.picture(float(time_s), width=width, height=height, background=background)

    def audio(self, rate_hz: int) -> np.ndarray:
        """Synthesize the sound from time 0 on: `[samples]` float64."""
        rng = self.spec.rng("voice")
        manner = VOICES[sample.VOICE_OF[self.spec.emotion]]
        # Nobody says a thing twice alike.
        manner = dataclasses.replace(
            manner,
            pitch_semitones=manner.pitch_semitones + rng.uniform(-0.5, 0.5),
            tilt_hz=manner.tilt_hz * 2.0 ** rng.uniform(-0.2, 0.2),
            breath=manner.breath * 2.0 ** rng.uniform(-0.3, 0.3),
            gain_db=manner.gain_db + rng.uniform(-1.5, 1.5),
        )
        letters = list(sample_voice.VOWELS)
        words = sample.keyed_rng(0, "words", self.spec.corpus, self.spec.sentence)
        vowels = "".join(words.choice(letters, 12))
        return sample_voice.synthesize(
            self.throat,
            manner,
            self.envelope,
            vowels,
            self.spec.duration_s,
            rate_hz=rate_hz,
            rng=rng,
        )


def draw_clip(spec: sample.ClipSpec) -> DrawnClip:
    """Draw what a clip is made of; the same spec gives the same clip."""
    throat = sample_voice.draw_throat(spec.actor_rng("throat"), female=spec.female)
    return DrawnClip(
        spec=spec,
        look=sample_face.draw_look(spec.actor_rng("look"), female=spec.female),
        throat=throat,
        envelope=sample_voice.draw_envelope(
            spec.rng("syllables"), spec.duration_s, throat.syllables_hz
        ),
    )
