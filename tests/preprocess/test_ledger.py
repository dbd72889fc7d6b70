"""What a build knows of all its clips."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import wavfile

from preprocess.builder.building import build
from preprocess.builder.ledger import Begun, Ledger
from preprocess.builder.plan import BuildError, BuildSettings
from preprocess.builder.workspace import Workspace

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


def test_a_ledger_knows_what_is_missing_and_what_goes_where(tmp_path):
    draw(tmp_path / "crema_d", 3)
    workspace = Workspace(tmp_path / "out")
    ledger = Ledger({"crema_d": tmp_path / "crema_d"}, SETTINGS, workspace)
    with workspace.held():
        begun = ledger.begin(overwrite=False)
        assert begun == Begun(frozenset({"crema_d"}), 3, clips_missing=3)
        names = [clip.name for clip in ledger.missing]
        assert names == ["1000_DFA_ANG_XX", "1000_IEO_SAD_HI", "1000_IEO_SAD_MD"]
        for name in names:
            ledger.add(f"crema_d/{name}", 1000)
        (plan,) = ledger.plan_shards()
        assert len(plan.example_ids) == 3
        with pytest.raises(FileNotFoundError):  # no shard was written
            ledger.finish()


def test_what_keeps_a_build_from_being_planned_is_said_here(tmp_path):
    roots = {"crema_d": tmp_path / "nowhere"}
    with pytest.raises(BuildError, match=r"^--crema_d_dir: .*nowhere: no such folder$"):
        build(roots, tmp_path / "out", SETTINGS, num_workers=1)
