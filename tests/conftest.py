"""What several tests share: the real clips, where they are there, and a made-up data set.

Processor time is a budget, so take what is made already. Records: `fake_data_dir`, read only; write
others with `emotion_tfdata.testing` where their content matters. A training: `fit` with
`step_by_step`, of `emotion_tfdata/training/conftest.py`. Files of clips: `drawn` and `encode`, and
a build without processes: `in_process`, of `preprocess/conftest.py`. A command: its `main` in this
process, as `parsed` in `test_train.py` does; an interpreter that imports TensorFlow costs 5 s, and
so is started only where the process itself is the matter. A stream costs 1 to 2 s to trace.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from hypothesis import settings

PROJECT_DIR = Path(__file__).resolve().parent.parent

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("without_clock", deadline=None)
settings.load_profile("without_clock")


@pytest.fixture(scope="session")
def project_dir() -> Path:
    return PROJECT_DIR


@pytest.fixture(scope="session")
def corpora_dir() -> Path:
    path = PROJECT_DIR.parent / "shared" / "corpora"
    if not path.is_dir():
        pytest.skip("the folder of real clips is not there: ../shared/corpora")
    return path


@pytest.fixture(scope="session")
def fake_data_dir(tmp_path_factory) -> str:
    """Thirty made-up clips of five actors, in five folds. Read only."""
    from emotion_tfdata import testing

    path = str(tmp_path_factory.mktemp("fake"))
    testing.write_data_set(path, testing.fake_examples())
    return path
