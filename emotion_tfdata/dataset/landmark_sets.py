"""Which of a face's landmarks are used."""

from __future__ import annotations

from collections.abc import Sequence

FACEMESH_LANDMARKS = 478
OPENFACE_LANDMARKS = 68

# FaceMesh's own contours of what moves in an expression. Indices as in MediaPipe's canonical model.
_LIPS = (
    *(0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181, 185, 191),
    *(267, 269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415),
)
_BROWS = (
    *(46, 52, 53, 55, 63, 65, 66, 70, 105, 107),
    *(276, 282, 283, 285, 293, 295, 296, 300, 334, 336),
)
_EYES = (
    *(7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246),
    *(249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466),
)
_IRISES = tuple(range(468, 478))
# Jaw and cheeks: they tell a dropped jaw and a raised cheek from a mere change of the lips.
_JAW_AND_CHEEKS = (
    50,
    58,
    101,
    136,
    149,
    152,
    172,
    176,
    205,
    280,
    288,
    330,
    365,
    378,
    397,
    400,
    425,
)

EXPRESSIVE = tuple(sorted({*_LIPS, *_BROWS, *_EYES, *_IRISES, *_JAW_AND_CHEEKS}))


def landmark_indices(choice: str | Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the indices of the landmarks that a choice stands for.

    Args:
      choice: `"all"`; `"expressive"`: lips, brows, eyes, irises, jaw and cheeks of FaceMesh,
        everything but the jaw line of OpenFace's 68, or all of what are no landmarks; or the
        indices themselves.
      shape: of a frame: `(L, 3)`, or `(W,)` of other face features.

    Raises:
      ValueError: for an unknown word, an index out of range or twice, or no index at all.
    """
    num_landmarks = shape[0]
    if isinstance(choice, str):
        if choice not in ("all", "expressive"):
            raise ValueError(
                f"landmarks must be 'all', 'expressive' or a list of indices, got {choice!r}"
            )
        if choice == "all" or len(shape) == 1:
            return tuple(range(num_landmarks))
        if num_landmarks == FACEMESH_LANDMARKS:
            return EXPRESSIVE
        if num_landmarks == OPENFACE_LANDMARKS:
            return tuple(range(17, OPENFACE_LANDMARKS))
        raise ValueError(
            f"landmarks='expressive' is known for {FACEMESH_LANDMARKS} (FaceMesh) and "
            f"{OPENFACE_LANDMARKS} (OpenFace) landmarks, this data set has {num_landmarks}; "
            "give indices"
        )
    indices = tuple(int(index) for index in choice)
    if not indices or len(set(indices)) != len(indices):
        raise ValueError("landmarks must name at least one index, and each only once")
    if min(indices) < 0 or max(indices) >= num_landmarks:
        raise ValueError(
            f"landmarks holds index {max(indices) if min(indices) >= 0 else min(indices)}, "
            f"this data set has 0 to {num_landmarks - 1}"
        )
    return indices
