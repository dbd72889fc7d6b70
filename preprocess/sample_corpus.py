"""Draws the sample corpus: `python -m preprocess.sample_corpus --out_dir=D`.

Real audio-visual files in D/ravdess (mp4) and D/crema_d (flv), laid out and named as the two
corpora are, so that both readers run on them. The faces are drawn and the voices synthesized: a
test instrument, and accuracy on it says nothing about people. The same flags give the same clips;
a second run keeps what is there.
"""

from __future__ import annotations

import concurrent.futures
import sys
import time

from absl import app, flags

from emotion_tfdata.fields import define_flags, from_flags
from preprocess import cli
from preprocess.drawn import sample
from preprocess.drawn.sample_write import write_corpus

FLAGS = flags.FLAGS
flags.DEFINE_string("out_dir", None, "Folder to draw the corpus into.", required=True)
define_flags(FLAGS, sample.SampleSettings)
flags.DEFINE_bool("overwrite", False, "Replace a sample corpus of other settings in --out_dir.")
flags.DEFINE_integer(
    "num_workers", None, "Processes; by default one a core. The files do not depend on it.", 1
)


class _Progress:
    """A line on standard error every few seconds: how many, how fast, how long yet."""

    _EVERY_S = 5.0

    def __init__(self) -> None:
        self._start_s = self._told_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done < total and now_s - self._told_s < self._EVERY_S:
            return
        self._told_s = now_s
        rate_hz = done / (now_s - self._start_s)
        print(
            f"sample_corpus: {done}/{total} clips, {rate_hz:.1f} clips/s, "
            f"{(total - done) / rate_hz:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def main(argv: list[str]) -> None:
    """Draws the corpus; ends the process with a status and one line where it cannot."""
    if len(argv) > 1:
        cli.fail(f"unexpected arguments: {' '.join(argv[1:])}")
    start_s = time.monotonic()
    try:
        written = write_corpus(
            from_flags(FLAGS, sample.SampleSettings),
            FLAGS.out_dir,
            overwrite=FLAGS.overwrite,
            num_workers=FLAGS.num_workers,
            progress=_Progress(),
        )
    except (ValueError, concurrent.futures.BrokenExecutor) as error:
        cli.fail(str(error))
    except OSError as error:
        cli.fail(f"cannot write to --out_dir={FLAGS.out_dir}: {error}")
    except KeyboardInterrupt:
        cli.stopped()
    total = written.drawn + written.reused
    print(
        f"{total} drawn clips in {FLAGS.out_dir}: {written.drawn} drawn, {written.reused} reused, "
        f"{time.monotonic() - start_s:.1f} s"
    )


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
