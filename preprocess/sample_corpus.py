"""Draws the sample corpus: `python -m preprocess.sample_corpus --out_dir=D`.

Real audio-visual files in D/ravdess (mp4) and D/crema_d (flv), laid out and named as the two
corpora are, so that both readers run on them. The faces are drawn and the voices synthesized: a
test instrument, and accuracy on it says nothing about people. The same flags give the same clips;
a second run keeps what is there.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable

from absl import app, flags

from emotion_tfdata.fields import define_flags, from_flags
from preprocess import cli
from preprocess.drawn import sample
from preprocess.drawn.sample_write import write_corpus
from preprocess.reports.summary import Progress

FLAGS = flags.FLAGS
flags.DEFINE_string("out_dir", None, "Folder to draw the corpus into.", required=True)
define_flags(FLAGS, sample.SampleSettings)
flags.DEFINE_bool("overwrite", False, "Replace a sample corpus of other settings in --out_dir.")
flags.DEFINE_integer(
    "num_workers", None, "Processes; by default one a core. The files do not depend on it.", 1
)


def _tells_progress() -> Callable[[int, int], None]:
    """Print progress on standard error every few seconds: how many, how fast, how long yet."""
    begun: list[Progress] = []

    def tell(done: int, total: int) -> None:
        if not begun:
            begun.append(Progress(total))
        begun[0].add()

    return tell


def main(argv: list[str]) -> None:
    """Draw the corpus; end the process with a status and one line where it cannot."""
    if len(argv) > 1:
        cli.fail(f"unexpected arguments: {' '.join(argv[1:])}")
    start_s = time.monotonic()
    try:
        written = write_corpus(
            from_flags(FLAGS, sample.SampleSettings),
            FLAGS.out_dir,
            overwrite=FLAGS.overwrite,
            num_workers=FLAGS.num_workers,
            progress=_tells_progress(),
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
