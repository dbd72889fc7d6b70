"""What a build tells its user."""

from __future__ import annotations

import csv
import io

from preprocess import summary
from preprocess.corpora import LeftOut

LEFT_OUT = [LeftOut(f"ravdess/{i}.mp4", "no face", "no face, at all") for i in range(8)] + [
    LeftOut("crema_d/a.flv", "lfs pointer", 'run "git lfs pull"')
]


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def test_kinds_are_counted_the_largest_first_with_a_few_names():
    assert [" ".join(line.split()) for line in summary.left_out_lines(LEFT_OUT, listed=2)] == [
        "8 no face",
        "ravdess/0.mp4: no face, at all",
        "ravdess/1.mp4: no face, at all",
        "... and 6 more",
        "1 lfs pointer",
        'crema_d/a.flv: run "git lfs pull"',
    ]


def test_the_table_holds_every_file():
    rows = list(csv.DictReader(io.StringIO(summary.left_out_csv(LEFT_OUT))))
    assert [LeftOut(**row) for row in rows] == LEFT_OUT


def test_progress_tells_rate_time_left_and_what_is_left_out(monkeypatch):
    now_s = iter([0.0, 10.0, 25.0, 30.0])
    monkeypatch.setattr(summary.time, "monotonic", lambda: next(now_s))
    stream = Stream(terminal=False)
    progress = summary.Progress(3, "clips", stream)
    progress.add()
    progress.add(LEFT_OUT[0])
    progress.add(LEFT_OUT[-1])
    assert stream.getvalue().splitlines() == [
        "1/3 clips, 0.1/s, 0:20 left",
        "2/3 clips, 0.1/s, 0:12 left, left out: 1 no face",
        "3/3 clips, 0.1/s, 0:00 left, left out: 1 no face, 1 lfs pointer",
    ]


def test_progress_on_a_terminal_stays_on_one_line(monkeypatch):
    now_s = iter([0.0, 7200.0, 7200.1, 7300.0])
    monkeypatch.setattr(summary.time, "monotonic", lambda: next(now_s))
    stream = Stream(terminal=True)
    progress = summary.Progress(3, "clips", stream)
    for _ in range(3):
        progress.add()
    assert stream.getvalue() == (
        "\r\033[K1/3 clips, 0.0/s, 4:00:00 left\r\033[K3/3 clips, 0.0/s, 0:00 left\n"
    )
