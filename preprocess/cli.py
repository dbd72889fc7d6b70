"""What the commands do alike: flags, and one line and a status where they cannot do their work."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags

from preprocess.builder import self_test


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the flags for `app.run`; what is wrong with them is one line.

    Standard output then takes paths that are no UTF-8 too, as standard error always does.

    Args:
      argv: the command line, the program's name first.

    Returns:
      What of it is no flag, the program's name first.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(str(error).replace("\n", " "))


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """End the process with one line where a command's libraries do not load."""
    try:
        yield
    except Exception as error:  # libraries that do not fit each other raise whatever they like
        fail(self_test.describe(error))


def fail(message: str) -> NoReturn:
    """End the process with status 1 and a line on standard error."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command that keeps nothing of an interrupted run, and end the process."""
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    raise AssertionError("app.run ends the process")


def stopped() -> NoReturn:
    """End a process that its user interrupted, with the status that shells give to that."""
    print("stopped; the same command resumes", file=sys.stderr)
    sys.exit(130)
