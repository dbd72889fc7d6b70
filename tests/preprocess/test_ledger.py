"""What a build knows of all its clips: kept by one process, asked for by another."""

from __future__ import annotations

import dataclasses
import os
import signal
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from scipy.io import wavfile

from preprocess.building import build
from preprocess.ledger import Begun, Clerk, Ledger, ToSeal
from preprocess.plan import BuildError, BuildSettings
from preprocess.pool import Pool
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


@dataclasses.dataclass(frozen=True)
class Dying:
    """A ledger whose process dies when it is asked for one thing."""

    ledger: Ledger
    at: str

    def __call__(self, request):
        if request[0] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.ledger(request)


@pytest.mark.parametrize("where", ["in this process", "in another"])
def test_a_clerk_is_told_what_the_ledger_knows(tmp_path, here, where):
    draw(tmp_path / "crema_d", 3)
    roots, workspace = {"crema_d": tmp_path / "crema_d"}, Workspace(tmp_path / "out")
    make_pool = here if where == "in this process" else Pool
    with workspace.held(), make_pool(Ledger(roots, SETTINGS, workspace), 1, None, 60.0) as pool:
        clerk = Clerk(pool)
        checked = frozenset({"crema_d"})
        assert clerk.ask(Ledger.begin, overwrite=False) == Begun(checked, 3, clips_missing=3)
        names = [clip.name for clip in clerk.ask(Ledger.clips, 0, 2)]
        assert names == ["1000_DFA_ANG_XX", "1000_IEO_SAD_HI"]
        assert [clip.name for clip in clerk.ask(Ledger.clips, 2, 2)] == ["1000_IEO_SAD_MD"]
        for name in (*names, "1000_IEO_SAD_MD"):
            clerk.ask(Ledger.add, f"crema_d/{name}", 1000)
        assert clerk.ask(Ledger.plan_shards) == ToSeal(shards=1, clips=3)
        (plan,) = clerk.ask(Ledger.shards, 0, 64)
        assert len(plan.example_ids) == 3
        with pytest.raises(BuildError, match=r"No such file.*\. Mend it; then the same command"):
            clerk.ask(Ledger.finish)


def test_what_keeps_a_build_from_being_planned_is_said_here(tmp_path):
    roots = {"crema_d": tmp_path / "nowhere"}
    with pytest.raises(BuildError, match=r"^--crema_d_dir: .*nowhere: no such folder$"):
        build(roots, tmp_path / "out", SETTINGS, num_workers=1)


@pytest.mark.parametrize("at", ["begin", "clips", "add", "shards", "finish"])
def test_a_list_of_clips_that_is_lost_ends_the_build_which_goes_on_later(tmp_path, in_process, at):
    draw(tmp_path / "crema_d", 2)
    roots, out_dir = {"crema_d": tmp_path / "crema_d"}, tmp_path / "out"

    def make_clerk_pool(ledger, *arguments, **options):
        return Pool(Dying(ledger, at), *arguments, **options)

    lost = r"^the list of clips is lost: its worker died \(SIGKILL\); the same command goes on"
    with pytest.raises(BuildError, match=lost):
        build(roots, out_dir, SETTINGS, **in_process | {"make_clerk_pool": make_clerk_pool})

    build(roots, out_dir, SETTINGS, **in_process)
    build(roots, tmp_path / "unbroken", SETTINGS, **in_process)
    for path in (tmp_path / "unbroken").iterdir():
        assert (out_dir / path.name).read_bytes() == path.read_bytes()


def test_a_fault_of_ours_is_not_said_to_pass(tmp_path, in_process, monkeypatch, capsys):
    draw(tmp_path / "crema_d", 1)

    def plan_shards(ledger):
        raise KeyError("no")

    monkeypatch.setattr(Ledger, "plan_shards", plan_shards)
    with pytest.raises(BuildError, match=r"^listing the clips failed \(KeyError: 'no'\)$"):
        build({"crema_d": tmp_path / "crema_d"}, tmp_path / "out", SETTINGS, **in_process)
    assert "Traceback" in capsys.readouterr().err


def test_who_hands_out_the_work_holds_no_more_of_many_clips_than_of_few(tmp_path, here):
    def peak_bytes(count):
        root, out_dir = tmp_path / f"{count}" / "crema_d", tmp_path / f"{count}" / "out"
        root.parent.mkdir()
        draw(root, count)

        settings = dataclasses.replace(SETTINGS, max_shard_size_mb=0.1)

        class Instant(here):
            """Does nothing, at once."""

            def run(self, tasks, timeout_s=None):
                for task in tasks:
                    done[type(task).__name__] += 1
                    yield task, 1000

        done = Counter()
        tracemalloc.start()
        with pytest.raises(BuildError, match="No such file"):  # no shard was written
            build({"crema_d": root}, out_dir, settings, num_workers=1, make_pool=Instant)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert done["Clip"] == count
        assert done["ShardPlan"] >= count // 50
        return peak

    peak_bytes(10)  # what is imported on the way
    few, many = peak_bytes(200), peak_bytes(2200)
    assert (many - few) / 2000 < 10
