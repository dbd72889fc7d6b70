"""What a build knows of all its clips: kept by one process, asked for by another."""

from __future__ import annotations

import os
import signal
import tracemalloc

import numpy as np
import pytest
from scipy.io import wavfile

from preprocess.build import build
from preprocess.ledger import Begun, Clerk, Ledger, ToSeal
from preprocess.plan import BuildError, BuildSettings
from preprocess.pool import Pool, WorkerError
from preprocess.work import Stop
from preprocess.workspace import Workspace

SETTINGS = BuildSettings(modalities="audio", num_folds=2)
LEVELS = ("LO", "MD", "HI", "XX")


def draw(root, count):
    """So many wavs that are short, in name at least CREMA-D's; one of them whole."""
    root.mkdir(exist_ok=True)
    wavfile.write(root / "1000_DFA_ANG_XX.wav", 16000, np.full(8000, 3000, np.int16))
    content = (root / "1000_DFA_ANG_XX.wav").read_bytes()[:100]
    for index in range(1, count):
        actor, level = 1000 + index // 4, LEVELS[index % 4]
        (root / f"{actor}_IEO_SAD_{level}.wav").write_bytes(content)


class Dies(Ledger):
    """Has no time for plans."""

    def plan_shards(self):
        os.kill(os.getpid(), signal.SIGKILL)


def asked(ledger):
    """A clerk that asks a ledger in another process."""
    return Pool(ledger, 1, None, 60.0)


def test_a_ledger_in_another_process_answers_as_one_here(tmp_path, in_process):
    draw(tmp_path / "crema_d", 3)
    roots, workspace = {"crema_d": tmp_path / "crema_d"}, Workspace(tmp_path / "out")
    with workspace.held(), asked(Ledger(roots, SETTINGS, workspace)) as pool:
        clerk = Clerk(pool)
        checked = frozenset({"crema_d"})
        assert clerk.ask(Ledger.begin, False) == Begun(checked, clips=3, clips_missing=3)
        names = [clip.name for clip in clerk.ask(Ledger.clips, 0, 2)]
        assert names == ["1000_DFA_ANG_XX", "1000_IEO_SAD_HI"]
        assert [clip.name for clip in clerk.ask(Ledger.clips, 2, 2)] == ["1000_IEO_SAD_MD"]
        for name in (*names, "1000_IEO_SAD_MD"):
            clerk.ask(Ledger.add, f"crema_d/{name}", 1000)
        assert clerk.ask(Ledger.plan_shards) == ToSeal(shards=1, clips=3)
        (plan,) = clerk.ask(Ledger.shards, 0, 64)
        assert len(plan.example_ids) == 3
        with pytest.raises(BuildError, match=r"fold-\\S+ is gone|No such file"):
            clerk.ask(Ledger.finish)


def test_what_keeps_a_build_from_being_planned_is_said_here(tmp_path):
    roots = {"crema_d": tmp_path / "nowhere"}
    with pytest.raises(BuildError, match=r"^--crema_d_dir: .*nowhere: no such folder$"):
        build(roots, tmp_path / "out", SETTINGS, num_workers=1)


def test_a_list_of_clips_that_is_lost_ends_the_build_which_goes_on_later(tmp_path):
    draw(tmp_path / "crema_d", 2)
    roots, workspace = {"crema_d": tmp_path / "crema_d"}, Workspace(tmp_path / "out")
    with workspace.held(), asked(Dies(roots, SETTINGS, workspace)) as pool:
        clerk = Clerk(pool)
        clerk.ask(Ledger.begin, False)
        with pytest.raises(BuildError, match=r"list of clips has died; the same command goes on"):
            clerk.ask(Ledger.plan_shards)
        clerk.ask(Ledger.begin, False)
    ledger = Ledger(roots, SETTINGS, workspace)
    assert isinstance(ledger(("clips", (0, 1))), Stop)


def test_who_hands_out_the_work_holds_no_more_of_many_clips_than_of_few(tmp_path, here):
    def peak_bytes(count):
        root, out_dir = tmp_path / f"{count}" / "crema_d", tmp_path / f"{count}" / "out"
        root.parent.mkdir()
        draw(root, count)

        class Instant(here):
            """Does nothing, at once."""

            def run(self, tasks, timeout_s=None):
                given = 0
                for task in tasks:
                    given += 1
                    yield task, 1000
                assert given == count
                raise WorkerError("that will do")

        tracemalloc.start()
        with pytest.raises(BuildError, match="that will do"):
            build({"crema_d": root}, out_dir, SETTINGS, num_workers=1, make_pool=Instant)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak_bytes(10)  # what is imported on the way
    few, many = peak_bytes(200), peak_bytes(2200)
    assert (many - few) / 2000 < 10
