"""Drawn faces: ellipses, polylines and filled outlines that a face mesh follows.

A face is laid out in head units: the origin is the middle of the head, x runs to the right of the
picture, y downwards, and the head is two units high. `draw_face` maps that onto pixels.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

Colour = tuple[int, int, int]

# cv2 takes fixed-point coordinates: 1/64 of a pixel, so that a lip can move by less than a pixel.
_SHIFT = 6
_CURVE = np.linspace(-1.0, 1.0, 25)

_SKINS: tuple[Colour, ...] = (
    (241, 205, 180),
    (228, 184, 150),
    (212, 162, 124),
    (188, 136, 100),
    (158, 108, 78),
)
_HAIRS: tuple[Colour, ...] = (
    (40, 30, 26),
    (78, 52, 34),
    (120, 84, 50),
    (172, 134, 84),
    (96, 92, 92),
)
_CLOTHES: tuple[Colour, ...] = ((52, 60, 80), (96, 44, 52), (60, 88, 72), (44, 44, 46))
_IRISES: tuple[Colour, ...] = ((70, 48, 30), (86, 110, 62), (70, 104, 140), (96, 84, 60))


@dataclasses.dataclass(frozen=True)
class Look:
    """What stays the same in all clips of an actor. Lengths are in head units.

    Attributes:
        skin, hair, iris, lips, clothes: Colours, RGB.
        head_width: Half the head's width.
        eye_distance: Half the distance between the eyes.
        eye_width: Half the width of an eye.
        brow_rest: Height of the resting brow above the eye.
        brow_thickness: Thickness of the brow.
        nose_length: From the eye line to the tip.
        mouth_rest: From the eye line to the mouth.
        mouth_width: Half the width of the resting mouth.
        lip_thickness: Thickness of a lip.
        size: Half the head's height as a share of the picture's height.
        long_hair: Whether the hair goes down to the jaw.
    """

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    clothes: Colour
    head_width: float
    eye_distance: float
    eye_width: float
    brow_rest: float
    brow_thickness: float
    nose_length: float
    mouth_rest: float
    mouth_width: float
    lip_thickness: float
    size: float
    long_hair: bool


@dataclasses.dataclass(frozen=True)
class Expression:
    """The parts of the face that move.

    Attributes:
        mouth_open: 0 closed to 1 wide open.
        smile: -1 lip corners down, 0 at rest, 1 corners up and out.
        brow_height: -1 lowered, 0 at rest, 1 raised.
        brow_tilt: 1 inner ends down (a frown), -1 inner ends up.
        eye_open: 0 shut, 1 at rest, 1.5 wide.
    """

    mouth_open: float = 0.0
    smile: float = 0.0
    brow_height: float = 0.0
    brow_tilt: float = 0.0
    eye_open: float = 1.0


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where the head is: an offset in head units, a roll in radians, a factor on its size."""

    x: float = 0.0
    y: float = 0.0
    roll: float = 0.0
    zoom: float = 1.0


def draw_look(rng: np.random.Generator, *, female: bool) -> Look:
    """Draw an actor's face."""
    skin = _SKINS[rng.integers(len(_SKINS))]
    red = 0.72 if female else 0.82
    lips = (int(skin[0] * 0.86), int(skin[1] * red * 0.72), int(skin[2] * red * 0.78))
    return Look(
        skin=skin,
        hair=_HAIRS[rng.integers(len(_HAIRS))],
        iris=_IRISES[rng.integers(len(_IRISES))],
        lips=lips,
        clothes=_CLOTHES[rng.integers(len(_CLOTHES))],
        head_width=rng.uniform(0.70, 0.78),
        eye_distance=rng.uniform(0.30, 0.34),
        eye_width=rng.uniform(0.135, 0.16),
        brow_rest=rng.uniform(0.205, 0.225),
        brow_thickness=rng.uniform(0.035, 0.05) if female else rng.uniform(0.045, 0.065),
        nose_length=rng.uniform(0.36, 0.41),
        mouth_rest=rng.uniform(0.58, 0.62),
        mouth_width=rng.uniform(0.235, 0.275),
        lip_thickness=rng.uniform(0.06, 0.075) if female else rng.uniform(0.045, 0.06),
        size=rng.uniform(0.33, 0.39),
        long_hair=female,
    )


def draw_face(
    look: Look,
    expression: Expression,
    pose: Pose = Pose(),
    *,
    width: int = 320,
    height: int = 240,
    background: Colour = (236, 236, 232),
) -> np.ndarray:
    """Draw one picture.

    Args:
        look: The actor's face.
        expression: What the face does.
        pose: Where the head is.
        width: Picture width in pixels.
        height: Picture height in pixels.
        background: RGB.

    Returns:
        `[height, width, 3]` uint8, RGB.
    """
    canvas = _Canvas(width, height, background, look.size * height * pose.zoom, pose)
    _draw_head(canvas, look, expression)
    for side in (-1.0, 1.0):
        _draw_eye(canvas, look, expression, side)
        _draw_brow(canvas, look, expression, side)
    _draw_nose(canvas, look)
    _draw_mouth(canvas, look, expression)
    return cv2.GaussianBlur(canvas.pixels, (3, 3), 0.7)


class _Canvas:
    """Pixels, and how head units fall on them."""

    def __init__(
        self, width: int, height: int, background: Colour, unit_px: float, pose: Pose
    ) -> None:
        self.pixels = np.full((height, width, 3), background, np.uint8)
        self._unit_px = unit_px
        self._centre = np.array(
            [width / 2 + pose.x * unit_px, height * 0.48 + pose.y * unit_px], np.float64
        )
        self._roll = pose.roll
        cosine, sine = math.cos(pose.roll), math.sin(pose.roll)
        self._axes = np.array([[cosine, sine], [-sine, cosine]])

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        pixels = self._centre + self._unit_px * (np.asarray(points, np.float64) @ self._axes)
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.pixels, [self._fixed(points)], colour, cv2.LINE_AA, _SHIFT)

    def region(self, centre: tuple[float, float], half: float) -> tuple[slice, slice]:
        """Return the pixels within `half` of a point: rows and columns."""
        x, y = self._fixed(np.array(centre)) / (1 << _SHIFT)
        reach = half * self._unit_px
        rows = slice(max(0, int(y - reach)), max(0, int(y + reach)))
        columns = slice(max(0, int(x - reach)), max(0, int(x + reach)))
        return rows, columns

    def coverage(self, points: np.ndarray, region: tuple[slice, slice]) -> np.ndarray:
        """Return how much of each pixel an outline covers: `[h, w, 1]` float32 in 0..1."""
        rows, columns = region
        mask = np.zeros(self.pixels[rows, columns].shape[:2], np.uint8)
        corner = np.array([columns.start, rows.start]) << _SHIFT
        cv2.fillPoly(mask, [self._fixed(points) - corner], (255,), cv2.LINE_AA, _SHIFT)
        return mask[:, :, np.newaxis] / np.float32(255.0)

    def line(self, points: np.ndarray, colour: Colour, thickness: float) -> None:
        pixels = max(1, round(thickness * self._unit_px))
        cv2.polylines(
            self.pixels, [self._fixed(points)], False, colour, pixels, cv2.LINE_AA, _SHIFT
        )

    def ellipse(
        self, centre: tuple[float, float], axes: tuple[float, float], colour: Colour
    ) -> None:
        x, y = self._fixed(np.array(centre))
        half = tuple(round(a * self._unit_px * (1 << _SHIFT)) for a in axes)
        cv2.ellipse(
            self.pixels,
            (int(x), int(y)),
            half,
            math.degrees(self._roll),
            0,
            360,
            colour,
            cv2.FILLED,
            cv2.LINE_AA,
            _SHIFT,
        )


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def _outline(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Make a closed outline of two curves that run the same way."""
    return np.concatenate([upper, lower[::-1]])


def _curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x, y], axis=1)


def _draw_head(canvas: _Canvas, look: Look, expression: Expression) -> None:
    width = look.head_width
    # The jaw drops with the mouth.
    jaw = 1.0 + 0.07 * expression.mouth_open
    hair_bottom = 0.55 if look.long_hair else -0.1
    canvas.ellipse((0.0, 1.75), (1.35, 0.62), look.clothes)  # shoulders
    canvas.fill(
        np.array([[-0.36, 0.6], [0.36, 0.6], [0.42, 1.5], [-0.42, 1.5]]), _shade(look.skin, 0.82)
    )
    canvas.ellipse((0.0, -0.22), (width + 0.12, 0.92), look.hair)
    if look.long_hair:
        for side in (-1.0, 1.0):
            canvas.ellipse((side * width * 0.93, 0.15), (0.24, hair_bottom + 0.3), look.hair)
    for side in (-1.0, 1.0):
        canvas.ellipse((side * width, 0.1), (0.1, 0.2), _shade(look.skin, 0.9))
    angles = np.linspace(0.0, 2 * np.pi, 60, endpoint=False)
    vertical = np.where(np.sin(angles) > 0, jaw, 0.92) * np.sin(angles)
    # A chin narrower than the forehead.
    horizontal = width * np.cos(angles) * (1.0 - 0.12 * np.clip(vertical, 0.0, None) ** 2)
    canvas.fill(_curve(horizontal, vertical), look.skin)
    for side in (-1.0, 1.0):
        canvas.ellipse((side * 0.4, 0.34), (0.16, 0.11), _shade(look.skin, 1.03))  # cheeks
    # The hair line.
    x = width * _CURVE
    canvas.fill(
        _outline(
            _curve(x, -0.98 * np.sqrt(np.clip(1.04 - _CURVE**2, 0, None))),
            _curve(x, -0.62 + 0.42 * _CURVE**4),
        ),
        look.hair,
    )


def _draw_eye(canvas: _Canvas, look: Look, expression: Expression, side: float) -> None:
    x = side * look.eye_distance
    half = look.eye_width
    lens = 1.0 - _CURVE**2
    upper = _curve(x + half * _CURVE, -0.085 * expression.eye_open * lens)
    lower = _curve(x + half * _CURVE, 0.045 * min(expression.eye_open, 1.2) * lens)
    canvas.ellipse((x, -0.02), (half * 1.25, 0.13), _shade(look.skin, 0.93))
    region = canvas.region((x, 0.0), 2.0 * half)
    behind = canvas.pixels[region].copy()
    canvas.ellipse((x, 0.0), (half * 1.1, half * 1.1), (244, 242, 238))
    canvas.ellipse((x, -0.015), (0.072, 0.072), look.iris)
    canvas.ellipse((x, -0.015), (0.034, 0.034), (16, 14, 14))
    canvas.ellipse((x + 0.025, -0.04), (0.014, 0.014), (250, 250, 250))
    # What the lids cover is put back.
    share = canvas.coverage(_outline(upper, lower), region)
    blend = canvas.pixels[region] * share + behind * (1 - share)
    canvas.pixels[region] = np.round(blend).astype(np.uint8)
    canvas.line(upper, _shade(look.skin, 0.3), 0.028)
    canvas.line(lower, _shade(look.skin, 0.6), 0.014)


def _draw_brow(canvas: _Canvas, look: Look, expression: Expression, side: float) -> None:
    along = np.linspace(-1.0, 1.0, 9)  # inner to outer end
    inward = (1.0 - along) / 2.0
    x = side * (look.eye_distance + 0.02 + 0.19 * along - 0.03 * expression.brow_tilt * inward)
    y = (
        -look.brow_rest
        - 0.10 * expression.brow_height
        + 0.05 * along**2
        + 0.10 * expression.brow_tilt * (inward - 0.35)
    )
    canvas.line(_curve(x, y), _shade(look.hair, 0.85), look.brow_thickness)


def _draw_nose(canvas: _Canvas, look: Look) -> None:
    tip = look.nose_length
    shade = _shade(look.skin, 0.84)
    canvas.fill(
        np.array([[-0.05, 0.0], [0.05, 0.0], [0.13, tip], [0.0, tip + 0.05], [-0.13, tip]]),
        _shade(look.skin, 0.96),
    )
    canvas.ellipse((0.0, tip - 0.04), (0.075, 0.06), _shade(look.skin, 1.05))
    for side in (-1.0, 1.0):
        wing = np.array([[0.13, tip - 0.07], [0.155, tip], [0.11, tip + 0.04], [0.04, tip + 0.035]])
        canvas.line(wing * [side, 1.0], shade, 0.022)
        canvas.ellipse((side * 0.065, tip + 0.02), (0.035, 0.018), _shade(look.skin, 0.42))
        canvas.line(np.array([[side * 0.06, 0.02], [side * 0.07, tip - 0.1]]), shade, 0.014)


def _draw_mouth(canvas: _Canvas, look: Look, expression: Expression) -> None:
    opening, smile = expression.mouth_open, expression.smile
    # Corners go out in a smile, and hardly in where they go down.
    half = look.mouth_width * (1.0 + (0.22 if smile > 0 else 0.08) * smile - 0.08 * opening)
    x = half * _CURVE
    lens = 1.0 - _CURVE**2
    middle = look.mouth_rest - 0.10 * smile * (_CURVE**2 - 0.4)
    inner_top = middle - 0.05 * opening * lens
    inner_bottom = middle + 0.24 * opening * lens
    bow = 0.18 * np.exp(-((_CURVE / 0.2) ** 2))
    thickness = look.lip_thickness * np.sqrt(lens)
    outer_top = inner_top - thickness * (1.0 - bow)
    outer_bottom = inner_bottom + 1.25 * thickness
    canvas.fill(_outline(_curve(x, outer_top), _curve(x, outer_bottom)), look.lips)
    canvas.fill(_outline(_curve(x * 0.94, inner_top), _curve(x * 0.94, inner_bottom)), (52, 18, 20))
    # Dark stays below the teeth: an arch of white alone reads as lips to the mesh.
    teeth = inner_top + np.minimum(0.05, 0.4 * (inner_bottom - inner_top))
    canvas.fill(_outline(_curve(x * 0.8, inner_top), _curve(x * 0.8, teeth)), (226, 220, 210))
    canvas.line(_curve(x * 0.97, inner_top), _shade(look.lips, 0.55), 0.014)
