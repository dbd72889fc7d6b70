"""What several tests share: the real clips, where they are there, and a made-up data set.

Processor time is a budget, so take what is made already. Records: `fake_data_dir`, read only; write
others with `emotion_tfdata.testing` where their content matters. A training: `fit` with
`step_by_step`; see `emotion_tfdata/training/conftest.py`. Files of clips: `drawn` and `encode`, and
a build without processes: `in_process`, of `preprocess/conftest.py`. A command: its `main` in this
process, as `parsed` does for `train.py`; an interpreter that imports TensorFlow costs 5 s, and
so is started only where the process itself is the matter. A stream costs 1 to 2 s to trace.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from absl import flags as absl_flags
from hypothesis import settings

# With all that is imported here, looking for garbage as often as usual takes a tenth of the time.
gc.set_threshold(50_000, 10, 10)

# Shells start what runs in the background with interrupts ignored; tests interrupt what they run.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT_DIR = Path(__file__).resolve().parent.parent

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("without_clock", deadline=None)
settings.load_profile("without_clock")


@pytest.fixture(autouse=True)
def environment_as_before():
    """What a test or a library changes in the environment ends with the test.

    tf2onnx, for one, sets how much TensorFlow logs in each process that is started after it.
    """
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


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


@pytest.fixture(scope="module")
def train_module(project_dir):
    """train.py as a module, its flags parsed from nothing.

    A command's flags are its process's; here other commands' may be defined already.
    """
    usual = absl_flags.FLAGS
    by_module = usual.flags_by_module_dict()
    absls = {each.name for name, of in by_module.items() if name.startswith("absl") for each in of}
    others = absl_flags.FlagValues()
    for name in set(usual) - absls:
        others[name] = usual[name]
    usual.remove_flag_values(others)
    sys.modules.pop("train", None)
    sys.path.insert(0, str(project_dir))
    try:
        import train as module
    finally:
        sys.path.pop(0)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield module
    for number, handler in handlers.items():
        signal.signal(number, handler)
    usual.remove_flag_values(set(usual) - absls)
    usual.append_flag_values(others)


@pytest.fixture
def parsed(train_module, project_dir):
    """train.py as a module, its flags parsed as the command line would."""
    module = train_module

    def parse(*flags):
        module.FLAGS.unparse_flags()
        for name in module.FLAGS:
            module.FLAGS[name].unparse()
        module.FLAGS(["train.py", *flags])
        return module

    cwd = os.getcwd()
    os.chdir(project_dir)
    yield parse
    os.chdir(cwd)
    parse()


@pytest.fixture
def step_by_step():
    """Runs a training's steps without compiling them first, which would take most of the time.

    TensorFlow warns that this leaves the input pipeline compiled, which is meant.
    """
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
