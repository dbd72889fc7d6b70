"""Stands in for train.py where training is not the point: the same files, the same answers."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import time

flags = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
if "only_check_args" in flags:
    sys.exit("FATAL Flags parsing error: Unknown command line flag" if "bad" in flags else 0)
model, epochs = pathlib.Path(flags["model_dir"]), int(flags.get("epochs", 3))
assert (pathlib.Path(flags["data_dir"]) / "manifest.json").is_file()
stop: list[int] = []
signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))


def write(name: str, value: object) -> None:
    """A file, whole or not at all."""
    (model / f"{name}.tmp").write_text(json.dumps(value))
    os.replace(model / f"{name}.tmp", model / name)


checkpoint = model / "checkpoint.npz"
at = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
print("from epoch", at, flush=True)
# With --until, epochs beyond those continue until the test makes that file.
while at < epochs or ("until" in flags and not os.path.exists(flags["until"])):
    if stop:
        print("stopped at", at, flush=True)
        sys.exit(0)
    if at == int(flags.get("fail_at", -1)):
        sys.exit("train.py: the loss is nan")
    time.sleep(0.02)
    at += 1
    write("checkpoint.npz", at)
    print("epoch", at, flush=True)
write("report.json", {"epochs": at})
