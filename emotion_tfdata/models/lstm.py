"""A bidirectional LSTM over packed rows that computes no padding.

Clips are ranked by length, longest first. Step `t` then works on the first `n_t` of them, those
that have a frame left, and the rows of all steps lie one after the other: `[N, ...]`, ordered by
step, then by rank. Both directions start at their own end of each clip. What does not hang on the
step before is one large matrix product for all steps: the input's share of the gates and, in the
gradient, that of both kernels. The loop keeps the recurrent product and the cell alone.

Rows that a mask excludes inside a clip are skipped: the state is carried over them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from emotion_tfdata.models.frames import Frames, permute_rows, with_row
from emotion_tfdata.models.gradients import own_gradient

# A turn of TensorFlow's loop costs about as much in handing on its state as a small step computes.
_STEPS_A_TURN = 4


class BiLSTM(keras.layers.Layer):
    """Forward and backward LSTM, concatenated.

    Gates are in the order input, forget, output, candidate; the initial values are those of
    `keras.layers.LSTM` (Glorot uniform, orthogonal, zeros with a forget bias of one).

    Args:
      units: of each direction.
      return_sequences: give `[N, 2 * units]`, or `[B, 2 * units]`: the state of each direction
        after its last step, zeros for a clip without rows.
      seed: of the initial kernels.
    """

    def __init__(self, units: int, *, return_sequences: bool, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.return_sequences, self.seed = units, return_sequences, seed

    def build(self, input_shape: tuple[int | None, int]) -> None:
        units = self.units
        forget_one = [0.0] * units + [1.0] * units + [0.0] * 2 * units
        self.directions = [
            (
                self.add_weight(
                    name=f"{name}_kernel",
                    shape=(input_shape[-1], 4 * units),
                    initializer=keras.initializers.GlorotUniform(self.seed + 2 * side),
                ),
                self.add_weight(
                    name=f"{name}_recurrent_kernel",
                    shape=(units, 4 * units),
                    initializer=keras.initializers.Orthogonal(seed=self.seed + 2 * side + 1),
                ),
                self.add_weight(
                    name=f"{name}_bias",
                    shape=(4 * units,),
                    initializer=lambda shape, dtype: tf.constant(forget_one, dtype, shape),
                ),
            )
            for side, name in enumerate(("forward", "backward"))
        ]
        self.built = True

    def call(self, x: tf.Tensor, frames: Frames) -> tf.Tensor:
        steps = Steps.of(frames)
        outputs = []
        for (kernel, recurrent, bias), order, inverse in zip(
            self.directions,
            (steps.forward, steps.backward),
            (steps.forward_inverse, steps.backward_inverse),
            strict=True,
        ):
            wide = self.variable_dtype
            gates = tf.nn.bias_add(tf.matmul(permute_rows(x, order, inverse), kernel), bias)
            # The state sums over many steps: it keeps the digits that the weights have.
            h = recur(tf.cast(gates, wide), tf.cast(recurrent, wide), steps.size)
            h = tf.cast(h, x.dtype)
            if self.return_sequences:
                outputs.append(permute_rows(h, inverse, order))
            else:
                outputs.append(tf.gather(with_row(h), steps.last))
        return tf.concat(outputs, axis=1)


class Steps(NamedTuple):
    """The order of the rows by step. All int32.

    Attributes:
      size: `[S]`, how many clips each step works on, never rising.
      forward, backward: `[N]`, the packed row at each place, for either direction.
      forward_inverse, backward_inverse: `[N]`, the place of each packed row.
      last: `[B]`, the place of each clip's last step, in either direction; `N` without one.
    """

    size: tf.Tensor
    forward: tf.Tensor
    backward: tf.Tensor
    forward_inverse: tf.Tensor
    backward_inverse: tf.Tensor
    last: tf.Tensor

    @classmethod
    def of(cls, frames: Frames) -> Steps:
        """Lay out the steps over `frames`."""
        count = frames.count
        by_rank = tf.argsort(count, direction="DESCENDING", stable=True)
        rank = tf.math.invert_permutation(by_rank)
        length = tf.gather(count, by_rank)
        # reduce_max of no clips is the least integer: range() must not see it.
        working = length[None] > tf.range(tf.maximum(tf.reduce_max(count), 0))[:, None]
        size = tf.reduce_sum(tf.cast(working, tf.int32), axis=1)
        first_place = tf.cumsum(size, exclusive=True)
        place = tf.cast(tf.where(working), tf.int32)
        step, clip = place[:, 0], tf.gather(by_rank, place[:, 1])
        first_row = tf.cumsum(count, exclusive=True)
        row = tf.gather(first_row, clip)
        nth = tf.range(frames.total) - tf.gather(first_row, frames.clip)
        from_end = tf.gather(count, frames.clip) - 1 - nth
        clip_rank = tf.gather(rank, frames.clip)
        last = tf.gather(tf.concat([first_place, [0]], axis=0), tf.maximum(count - 1, 0)) + rank
        return cls(
            size,
            row + step,
            row + tf.gather(count, clip) - 1 - step,
            tf.gather(first_place, nth) + clip_rank,
            tf.gather(first_place, from_end) + clip_rank,
            tf.where(count > 0, last, frames.total),
        )


def recur(gates: tf.Tensor, recurrent: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Run the recurrence of an LSTM.

    Args:
      gates: `[N, 4 * units]`, the input's share and the bias, rows by step.
      recurrent: `[units, 4 * units]`.
      size: `[S]`, rows of each step, never rising, `sum(size) == N`.

    Returns:
      `[N, units]`, the outputs.
    """

    units, dtype = recurrent.shape[0], recurrent.dtype

    @own_gradient
    def run(gates: tf.Tensor, recurrent: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        h, c, sigmoids, candidate = _traced(_forward, units, dtype, (4,))(gates, recurrent, size)

        def gradient(dh: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            backward = _traced(_backward, units, dtype, (1, 1, 1, 3, 1))
            return backward(dh, h, c, sigmoids, candidate, recurrent, size)

        return h, gradient

    return run(gates, recurrent)


@functools.cache
def _traced(
    function: Callable[..., Any], units: int, dtype: tf.DType, widths: tuple[int, ...]
) -> Callable[..., Any]:
    """Trace `function` for any number of rows: a model called eagerly has others each time.

    Args:
      function: `_forward` or `_backward`.
      units: of the LSTM.
      dtype: of all its floats.
      widths: of the arguments that have a row a frame, in `units`.
    """
    rows = [tf.TensorSpec([None, width * units], dtype) for width in widths]
    fixed = [tf.TensorSpec([units, 4 * units], dtype), tf.TensorSpec([None], tf.int32)]
    return tf.function(function, input_signature=[*rows, *fixed], autograph=False)


def _forward(gates: tf.Tensor, recurrent: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Compute outputs, cell states, the three sigmoid gates and the candidates of all steps."""
    units = recurrent.shape[0]
    size, turns = _turns(size)
    inputs = _dealt(gates, size)
    state_shape = tf.stack([size, tf.fill(tf.shape(size), units)], axis=1)

    def turn(
        number: tf.Tensor, h: tf.Tensor, c: tf.Tensor, *kept: tf.TensorArray
    ) -> tuple[Any, ...]:
        for t in _steps_of(number):
            shape = tf.gather(state_shape, t)
            preactivation = inputs.read(t) + tf.matmul(tf.slice(h, [0, 0], shape), recurrent)
            sigmoids = tf.sigmoid(preactivation[:, : 3 * units])
            candidate = tf.tanh(preactivation[:, 3 * units :])
            i, f, o = tf.split(sigmoids, 3, axis=1)
            c = f * tf.slice(c, [0, 0], shape) + i * candidate
            h = o * tf.tanh(c)
            made = (h, c, sigmoids, candidate)
            kept = tuple(array.write(t, x) for array, x in zip(kept, made, strict=True))
        return (number + 1, h, c, *kept)

    state = tf.zeros([tf.reduce_sum(size[:1]), units], gates.dtype)
    kept = [_per_step(size, width, gates.dtype) for width in (units, units, 3 * units, units)]
    _, _, _, *kept = tf.while_loop(
        lambda number, *_: number < turns,
        turn,
        (0, state, state, *kept),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, units]),
            tf.TensorShape([None, units]),
            *(tf.TensorShape(None) for _ in kept),
        ),
        parallel_iterations=1,
    )
    return tuple(array.concat() for array in kept)


def _backward(
    dh: tf.Tensor,
    h: tf.Tensor,
    c: tf.Tensor,
    sigmoids: tf.Tensor,
    candidate: tf.Tensor,
    recurrent: tf.Tensor,
    size: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Find the gradients to the gates' input share and the recurrent kernel, given that to `h`."""
    units = recurrent.shape[0]
    # The place one step back: as far back as the step before is wide. The first step has none.
    before = tf.range(tf.shape(h)[0]) - tf.repeat(tf.concat([size[:1], size[:-1]], 0), size)
    before = tf.where(before < 0, tf.shape(h)[0], before)

    # dgates = concat([dc, dc, dh, dc]) * slope, and dc = dc_later + dh * cell_slope.
    i, f, o = tf.split(sigmoids, 3, axis=1)
    tanh_c = tf.tanh(c)
    cell_slope = tf.raw_ops.TanhGrad(y=tanh_c, dy=o)
    through = tf.concat([candidate, tf.gather(with_row(c), before), tanh_c], axis=1)
    slope = tf.concat(
        [tf.raw_ops.SigmoidGrad(y=sigmoids, dy=through), tf.raw_ops.TanhGrad(y=candidate, dy=i)],
        axis=1,
    )
    transposed = tf.transpose(recurrent)
    size, turns = _turns(size)
    joining = size - tf.concat([size[1:], [0]], axis=0)  # clips whose last step this is
    grow = tf.pad(joining[:, None, None], [[0, 0], [0, 1], [1, 0]])
    dealt = [_dealt(x, size) for x in (dh, cell_slope, slope, f)]

    def turn(
        number: tf.Tensor, dh_later: tf.Tensor, dc_later: tf.Tensor, kept: tf.TensorArray
    ) -> tuple[Any, ...]:
        for t in reversed(_steps_of(number)):
            dh_given, cell_slope, slope, f = (array.read(t) for array in dealt)
            more = tf.gather(grow, t)
            dh_now = dh_given + tf.pad(dh_later, more)
            dc = tf.pad(dc_later, more) + dh_now * cell_slope
            dgates = tf.concat([dc, dc, dh_now, dc], axis=1) * slope
            dh_later, dc_later = tf.matmul(dgates, transposed), dc * f
            kept = kept.write(t, dgates)
        return number - 1, dh_later, dc_later, kept

    none = tf.zeros([0, units], dh.dtype)
    *_, kept = tf.while_loop(
        lambda number, *_: number >= 0,
        turn,
        (turns - 1, none, none, _per_step(size, 4 * units, dh.dtype)),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, units]),
            tf.TensorShape([None, units]),
            tf.TensorShape(None),
        ),
        parallel_iterations=1,
    )
    dgates = kept.concat()
    drecurrent = tf.matmul(tf.gather(with_row(h), before), dgates, transpose_a=True)
    return dgates, drecurrent


def _turns(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Fill up the steps with empty ones to whole turns of the loop; return them and the turns."""
    turns = -(-tf.size(size) // _STEPS_A_TURN)
    return tf.pad(size, [[0, turns * _STEPS_A_TURN - tf.size(size)]]), turns


def _steps_of(number: tf.Tensor) -> list[tf.Tensor]:
    """List the steps of a turn."""
    return [number * _STEPS_A_TURN + k for k in range(_STEPS_A_TURN)]


def _dealt(x: tf.Tensor, size: tf.Tensor) -> tf.TensorArray:
    """Deal `x [N, width]` to the steps, without a copy."""
    return _per_step(size, x.shape[1], x.dtype).split(x, size)


def _per_step(size: tf.Tensor, width: int, dtype: tf.DType) -> tf.TensorArray:
    """Make an array of a tensor `[n, width]` for each step, each with an `n` of its own."""
    return tf.TensorArray(
        dtype, tf.size(size), element_shape=tf.TensorShape([None, width]), infer_shape=False
    )
