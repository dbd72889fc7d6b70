"""What a build tells its user."""

from __future__ import annotations

import csv
import io

from preprocess.corpora import Skipped
from preprocess.reports import summary

SKIPPED = [Skipped(f"ravdess/{i}.mp4", "no face", "no face, at all") for i in range(8)] + [
    Skipped("crema_d/a.flv", "lfs pointer", 'run "git lfs pull"')
]


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def test_kinds_are_counted_the_largest_first_with_a_few_names():
    assert [" ".join(line.split()) for line in summary.skipped_lines(SKIPPED, listed=2)] == [
        "8 no face",
        "ravdess/0.mp4: no face, at all",
        "ravdess/1.mp4: no face, at all",
        "... and 6 more",
        "1 lfs pointer",
        'crema_d/a.flv: run "git lfs pull"',
    ]


def test_the_table_holds_every_file():
    rows = list(csv.DictReader(io.StringIO(summary.skipped_csv(SKIPPED))))
    assert [Skipped(**row) for row in rows] == SKIPPED


def progress_lines(monkeypatch, total, times_s):
    """What is told of a work whose items are done at these times; every third is skipped."""
    now_s = iter([0.0, *times_s])
    monkeypatch.setattr(summary.time, "monotonic", lambda: next(now_s))
    stream = Stream(terminal=False)
    progress = summary.Progress(total, "clips", stream)
    for number in range(len(times_s)):
        progress.add(SKIPPED[0] if number % 3 == 2 else None)
    return stream.getvalue().splitlines()


def test_there_is_no_time_left_before_there_is_a_rate(monkeypatch):
    # Both workers load for 10 s, and are done with their first clips at once.
    lines = progress_lines(monkeypatch, 200, [10.0, 10.1, *(11.0 + n for n in range(30))])
    assert lines == [
        "1/200 clips",
        "12/200 clips, 1.1/s, 2:51 left, skipped: 4 no face",
        "22/200 clips, 1.1/s, 2:50 left, skipped: 7 no face",
        "32/200 clips, 1.0/s, 2:43 left, skipped: 10 no face",
    ]


def test_the_time_left_follows_the_last_clips(monkeypatch):
    slow = [10.0 * n for n in range(1, 51)]
    fast = [500 + n / 2 for n in range(1, 101)]
    lines = progress_lines(monkeypatch, 250, slow + fast)
    assert lines[49] == "50/250 clips, 0.1/s, 33:20 left, skipped: 16 no face"
    assert lines[-1] == "150/250 clips, 2.0/s, 0:50 left, skipped: 50 no face"


def test_the_last_line_tells_what_is_skipped(monkeypatch):
    assert progress_lines(monkeypatch, 3, [0.1, 0.2, 0.3]) == ["3/3 clips, skipped: 1 no face"]


def test_progress_on_a_terminal_stays_on_one_line(monkeypatch):
    now_s = iter([0.0, 7200.0, 7200.1, 7300.0])
    monkeypatch.setattr(summary.time, "monotonic", lambda: next(now_s))
    stream = Stream(terminal=True)
    progress = summary.Progress(3, "clips", stream)
    for _ in range(3):
        progress.add()
    assert stream.getvalue() == ("\r\033[K1/3 clips\r\033[K3/3 clips\n")
