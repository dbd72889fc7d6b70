"""Runs a command of the project on a machine of EC2 that ends itself, and watches it.

    python -m launch.ec2 deploy --flagfile=tcn.flags --data_dir=DIR|s3://... [-- TRAIN.PY'S FLAGS]
    python -m launch.ec2 deploy --command='python -m ... {data} {out}' [--data_dir=DIR|s3://...]
    python -m launch.ec2 monitor RUN [--follow]
    python -m launch.ec2 list
    python -m launch.ec2 fetch RUN [--out_dir=DIR]
    python -m launch.ec2 stop RUN [--delete]
    python -m launch.ec2 resume RUN

A run is one CloudFormation stack, launch/stack.yaml, and a folder of S3. Region and credentials
come from AWS's usual places: environment, ~/.aws, an instance's role; launch/policy.json says what
they must be allowed. `deploy` prints the run's name on standard output, all else on standard error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

try:
    from absl import app, flags
except ModuleNotFoundError:
    sys.exit("launch.ec2 needs absl: pip install -c launch/constraints.txt -e '.[aws,train]'")

if TYPE_CHECKING:
    from launch.aws import Aws, Stack

PROJECT_DIR = Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS
_MIN_HOURS, _MAX_HOURS = 0.2, 31 * 24
# A machine that is ended has two minutes to save.
_END_S = 300.0

flags.DEFINE_string(
    "prefix",
    "",
    "s3://BUCKET/PREFIX for everything; default: a bucket of its own, made if missing",
)
flags.DEFINE_bool("yes", False, "do not ask")
flags.DEFINE_bool(
    "dry_run", False, "show what would be done, with time and cost of several types; do nothing"
)
flags.DEFINE_string("training_flagfile", "tcn.flags", "the training's flags; --flagfile means this")
flags.DEFINE_string(
    "command",
    "",
    "instead of a training: what to run, e.g. 'python -m preprocess.build_tfrecords "
    "--ravdess_dir={data} --out_dir={out}'; {out} is kept in S3 and resumed from",
)
flags.DEFINE_string("data_dir", "", "data set or any folder, here or s3://; {data} on the machine")
flags.DEFINE_string("name", "", "the run's name; default: made from what it runs")
flags.DEFINE_string(
    "instance_type",
    "",
    "up to three of an architecture, the first with room is taken; default: two cores for a "
    "training, c5.24xlarge for a grid of them",
)
flags.DEFINE_enum("os", "ubuntu", ["amazon", "ubuntu"], "Ubuntu 24.04 or Amazon Linux 2023")
flags.DEFINE_bool("spot", None, "cheaper; interrupted, it resumes on another machine by itself")
flags.DEFINE_float("max_hours", 12.0, "when AWS ends the machine whatever happens")
flags.DEFINE_float(
    "setup_minutes", 45.0, "how long AWS may look for a machine and set it up, 10 to 720"
)
flags.DEFINE_list("subnet_id", [], "default: the default network's")
flags.DEFINE_string("instance_profile", "", "one that there is, where you may make no role")
flags.DEFINE_string("notify", "", "e-mail address to tell when the run is over")
flags.DEFINE_bool("print_policy", False, "deploy: print what the caller must be allowed")

flags.DEFINE_bool("follow", False, "monitor: copy the log until the run is over")
flags.DEFINE_float("every_s", 5.0, "monitor --follow: seconds between two looks")
flags.DEFINE_string("out_dir", "", "fetch: where to; default: runs/RUN")
flags.DEFINE_bool("delete", False, "stop: remove everything made for the run, its files too")

# Not by absl's bounds, within which nan is.
for _name, _low, _high in (
    ("max_hours", _MIN_HOURS, _MAX_HOURS),
    ("setup_minutes", 10, 720),
    ("every_s", 0.1, 3600),
):
    flags.register_validator(
        _name,
        lambda value, low=_low, high=_high: low <= value <= high,
        f"give from {_low} to {_high}",
    )
flags.register_validator(
    "prefix",
    # It becomes part of a policy and of a script, where other letters mean something.
    lambda value: not value or re.fullmatch("s3://[A-Za-z0-9._/-]+", value),
    "give s3://BUCKET/PREFIX of letters, digits and . _ / -",
)


def say(text: str) -> None:
    """Tells the caller; standard output is for results."""
    # Where nobody listens any more, as when a terminal was closed, the work still goes on.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Runs a command; returns its exit status."""
    if len(argv) < 2 or argv[1] not in _COMMANDS:
        say(__doc__ or "")
        say(f"give one of: {', '.join(_COMMANDS)}")
        return 2
    command, takes_run, takes = _COMMANDS[argv[1]]
    rest = argv[2:]
    for flag in _ALL_FLAGS:
        if flag not in takes and FLAGS[flag].present:
            say(f"launch.ec2: {argv[1]} takes no --{flag.removeprefix('training_')}")
            return 2
    if takes_run and (len(rest) != 1 or not re.fullmatch("[a-z0-9][a-z0-9-]*", rest[0])):
        say(f"launch.ec2: {argv[1]} takes the name of one run; `list` shows them")
        return 2
    if not takes_run and rest and argv[1] != "deploy":
        say(f"launch.ec2: unexpected argument {rest[0]!r}")
        return 2
    if FLAGS.print_policy:
        print((PROJECT_DIR / "launch" / "policy.json").read_text(encoding="utf-8"), end="")
        return 0
    try:
        import botocore.exceptions
        import botocore.parsers

        from launch.aws import LaunchError
        from launch.files import FileError
    except ModuleNotFoundError as missing:
        needs = (missing.name or "").partition(".")[0]
        say(f"launch.ec2 needs {needs}: pip install -c launch/constraints.txt -e '.[aws,train]'")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _interrupt)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # where it found what, line by line
    try:
        return command(*rest)
    except (LaunchError, FileError) as error:
        say(f"launch.ec2: {error}")
    except botocore.exceptions.NoCredentialsError:
        say("launch.ec2: no AWS credentials were found: aws configure, or export AWS_PROFILE=...")
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        say(f"launch.ec2: AWS: {error}")
    except botocore.parsers.ResponseParserError as error:  # as of a proxy on the way
        say(f"launch.ec2: what answered is not AWS: {' '.join(str(error).split())[:300]}")
    except KeyboardInterrupt:
        say("launch.ec2: interrupted; AWS goes on with what was asked, and `list` shows it")
        return 130
    return 1


def _aws() -> Aws:
    from launch.aws import connect

    return connect(FLAGS.prefix)


def _deploy(*train_args: str) -> int:
    import botocore.exceptions

    from launch import deploy
    from launch.aws import LaunchError

    aws: Aws | None = None
    try:
        aws = _aws()
    except (LaunchError, botocore.exceptions.BotoCoreError) as error:
        if not FLAGS.dry_run:
            raise
        say(f"without AWS ({error}): account, network and quota are not looked at")
    plan = deploy.plan(aws, PROJECT_DIR, FLAGS, train_args, say)
    deploy.show(plan, aws, bool(FLAGS.spot), say)
    if FLAGS.dry_run:
        deploy.compare(plan, aws, say)
    if not _is_confirmed("Start it?", "nothing was made"):
        return 0 if FLAGS.dry_run else 1
    assert aws
    deploy.execute(aws, plan, bool(FLAGS.spot), say)
    say(f"watch it: python -m launch.ec2 monitor {plan.name} --follow")
    print(plan.name)
    return 0


def _resume(name: str) -> int:
    from launch import deploy, monitor
    from launch.aws import LaunchError

    aws = _aws()
    seen = monitor.look(aws, name)
    if seen.stack is None:
        raise LaunchError(
            f"the stack of {name} is gone; deploy with --name={name} goes on from its files"
        )
    if seen.machine or (seen.state == monitor.WAITING):
        say(f"{name} is at work: {seen.state}")
        print(name)
        return 0
    if seen.state == monitor.FINISHED:
        raise LaunchError(f"{name} is finished; `fetch {name}` brings its files")
    say(monitor.describe(aws, seen))
    if not _is_confirmed(
        f"Start a machine again, for {FLAGS.max_hours:g} h at most?", "not started"
    ):
        return 0 if FLAGS.dry_run else 1
    deploy.resume(
        aws,
        seen.stack,
        instance_types=FLAGS.instance_type,
        spot=FLAGS.spot,
        max_hours=FLAGS.max_hours,
        say=say,
    )
    print(name)
    return 0


def _monitor(name: str) -> int:
    from launch import monitor

    aws = _aws()
    if not FLAGS.follow:
        print(monitor.describe(aws, monitor.look(aws, name)))
        return 0
    seen = monitor.follow(aws, name, every_s=FLAGS.every_s)
    say(monitor.describe(aws, seen))
    return seen.exit_status


def _list() -> int:
    from launch import monitor

    aws = _aws()
    lines = monitor.overview(aws)
    print("\n".join(lines) if lines else f"no runs in {aws.region} and {aws.root}")
    return 0


def _fetch(name: str) -> int:
    from launch.aws import LaunchError

    aws, out_dir = _aws(), Path(FLAGS.out_dir or f"runs/{name}")
    folder, mark = aws.run_folder(name), out_dir / ".run.json"
    if not folder.read_json("status.json"):
        raise LaunchError(f"there is no run {name} in {aws.root}; `list` shows what there is")
    mine = json.dumps({"name": name, "folder": str(folder)})
    if mark.is_file():
        if mark.read_text() != mine:
            raise LaunchError(f"{out_dir} holds another run's files; choose another --out_dir")
    elif out_dir.is_dir() and any(out_dir.iterdir()):
        raise LaunchError(f"{out_dir} holds files that are no run's; choose another --out_dir")
    out_dir.mkdir(parents=True, exist_ok=True)
    mark.write_text(mine)
    new = [0, 0]
    # The command's folder becomes this one, so that train.py can resume in it.
    for part, to in (("out", out_dir), ("log", out_dir / "log")):
        for path, found, is_new in folder.folder(part).download_all(to):
            new[is_new] += 1
            if is_new:
                say(f"{path} ({found.bytes / 1e6:.2f} MB)")
    say(f"{sum(new)} files in {out_dir}, {new[True]} of them fetched now")
    return 0


def _stop(name: str) -> int:
    """Ends the machine first, which needs nothing of S3."""
    from launch import aws as aws_lib

    aws = _aws()
    stack = aws_lib.find_stack(aws, name)
    if stack is None and not (FLAGS.delete and aws.run_folder(name).objects()):
        raise aws_lib.LaunchError(f"there is no run {name} in {aws.region}; `list` shows them")
    if not FLAGS.delete:
        assert stack
        if not FLAGS.dry_run:
            _end(aws, stack)
            say(f"{name} has no machine; `resume {name}` goes on from what it saved")
            return 0
        say("dry run: nothing was ended")
        return 0
    say(f"removes, for good (first: fetch {name}):")
    say(f"  stack {stack.name}: its machine, role and firewall" if stack else "  no stack")
    say(f"  files in {aws.run_folder(name)}, and its data set if no other run has it")
    if not _is_confirmed("Remove it?", "nothing was removed"):
        return 0 if FLAGS.dry_run else 1
    shared = ""
    if stack:
        _end(aws, stack)
        aws.client("cloudformation").delete_stack(StackName=stack.name)
        aws_lib.wait(aws, stack.id, aws_lib.newest_event(aws, stack.id), say)
        say(f"stack {stack.name} removed")
        shared = stack.parameters.get("DataFolder", "")
    removed = _delete_files(aws.run_folder(name))
    ours = aws.root.folder("data").prefix + "/"
    others = {one.parameters.get("DataFolder") for one in aws_lib.stacks(aws)}
    if shared.startswith(ours) and shared not in others:
        removed += _delete_files(aws.root.folder(f"data/{shared.removeprefix(ours)}"))
    say(f"{removed} files removed; the bucket stays")
    return 0


def _delete_files(folder: Any) -> int:
    names = [one.name for one in folder.objects("")]
    folder.delete(names)
    return len(names)


def _end(aws: Aws, stack: Stack) -> None:
    """Has AWS end the machine, which saves as it goes down, and waits until it is gone."""
    from launch import aws as aws_lib

    aws_lib.end_machine(aws, stack.name)
    if stack.status == "UPDATE_IN_PROGRESS":  # still being set up; AWS would wait for that
        aws.client("cloudformation").cancel_update_stack(StackName=stack.name)
        with contextlib.suppress(aws_lib.LaunchError):
            aws_lib.wait(aws, stack.id, aws_lib.newest_event(aws, stack.id), say)
    give_up, told = time.monotonic() + _END_S, ""
    while time.monotonic() < give_up:
        machines = aws_lib.group(aws, stack.name).get("Instances", [])
        if not machines:
            return
        if machines[0]["InstanceId"] != told:
            told = machines[0]["InstanceId"]
            say(f"{told} saves and ends ...")
        time.sleep(2)
    say(f"{told} takes long to end; AWS goes on with it")


_TO_ASK = ("yes", "dry_run")
_TO_RESUME = ("instance_type", "spot", "max_hours", *_TO_ASK)
# What each calls, whether it takes a run's name, and its flags besides --prefix.
_COMMANDS: dict[str, tuple[Callable[..., int], bool, tuple[str, ...]]] = {
    "deploy": (
        _deploy,
        False,
        (
            *("training_flagfile", "command", "data_dir", "name", "os", "setup_minutes"),
            *("subnet_id", "instance_profile", "notify", "print_policy", *_TO_RESUME),
        ),
    ),
    "monitor": (_monitor, True, ("follow", "every_s")),
    "list": (_list, False, ()),
    "fetch": (_fetch, True, ("out_dir",)),
    "stop": (_stop, True, ("delete", *_TO_ASK)),
    "resume": (_resume, True, _TO_RESUME),
}
_ALL_FLAGS = sorted({flag for *_, takes in _COMMANDS.values() for flag in takes})


def _is_confirmed(question: str, otherwise: str) -> bool:
    """Whether to go on; if not, says what that means. A dry run asks nobody and does not."""
    from launch.aws import LaunchError

    if FLAGS.dry_run:
        say(f"dry run: {otherwise}")
        return False
    if FLAGS.yes:
        return True
    if not sys.stdin.isatty():
        raise LaunchError("nobody is there to ask; pass --yes to go on without")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    say(otherwise)
    return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse(argv: list[str]) -> list[str]:
    """Flags as absl has them, but that --flagfile is the training's and is passed on, not read."""
    ours, dashes, trains = argv, [], []
    if "--" in argv:
        at = argv.index("--")
        ours, dashes, trains = argv[:at], ["--"], argv[at + 1 :]
    renamed = [re.sub(r"^--?flagfile(?==|$)", "--training_flagfile", one) for one in ours]
    try:
        return FLAGS([*renamed, *dashes, *trains])
    except flags.Error as error:
        sys.exit(f"launch.ec2: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
