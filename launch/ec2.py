"""Trains on EC2, on an instance or several that end themselves, and watches it.

    python -m launch.ec2 deploy --flagfile=tcn.flags --data_dir=DIR|s3://... [-- TRAIN.PY'S FLAGS]
    python -m launch.ec2 monitor RUN [--follow]
    python -m launch.ec2 list
    python -m launch.ec2 fetch RUN [--out_dir=DIR]
    python -m launch.ec2 stop RUN [--delete]
    python -m launch.ec2 resume RUN

Region and credentials come from AWS's usual places: environment, ~/.aws, an instance's role.
`deploy` prints the run's name on standard output, everything else goes to standard error.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

try:
    import botocore.exceptions
    from absl import app, flags
except ModuleNotFoundError as missing:
    sys.exit(
        f"launch.ec2 needs {(missing.name or '').partition('.')[0]}: "
        "pip install -c launch/constraints.txt -e '.[aws,train]'"
    )

from launch import run as runs
from launch.aws import bucket, dataset, deploy, machine, monitor, plan, results, stop
from launch.aws.session import Aws, LaunchError, connect
from launch.s3 import Folder, S3Error

PROJECT_DIR = Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS
_MIN_HOURS, _MAX_HOURS = 0.2, 31 * 24
# What `resume` goes on with as it is, so that it is the same training, reached the same way.
_OF_DEPLOY = (
    *("training_flagfile", "data_dir", "name", "os", "image_id", "subnet_id"),
    *("ssh_cidr", "key_name", "num_instances"),
)

flags.DEFINE_string(
    "prefix",
    None,
    "s3://BUCKET/PREFIX for everything; default: a bucket of its own, made if missing",
)
flags.DEFINE_bool("yes", False, "do not ask")
flags.DEFINE_bool("dry_run", False, "show what would be done, and do nothing")

# deploy; those that are None by default are for resume too, where None means as before.
flags.DEFINE_string("training_flagfile", "tcn.flags", "the training's flags; --flagfile means this")
flags.DEFINE_string("data_dir", None, "data set, local or s3://")
flags.DEFINE_string("name", "", "the run's name; default: made from what it trains")
flags.DEFINE_string("instance_type", None, "default: c5.24xlarge")
flags.DEFINE_enum("os", "ubuntu", sorted(machine.SYSTEMS), "Ubuntu 22.04 or Amazon Linux 2023")
flags.DEFINE_string("image_id", "", "machine image; default: the system's newest")
flags.DEFINE_bool("spot", None, "cheaper; may be interrupted, and then goes on by itself")
flags.DEFINE_float("max_hours", None, "when it ends whatever happens; default: 12")
flags.DEFINE_float("price", None, "USD for an hour of one instance")
flags.DEFINE_string("subnet_id", "", "default: the default network's")
flags.DEFINE_string("ssh_cidr", "", "addresses to open port 22 to; default: none")
flags.DEFINE_string("key_name", "", "EC2 key pair for --ssh_cidr")
flags.DEFINE_integer("num_instances", 1, "instances that train one model together", lower_bound=1)

flags.DEFINE_bool("follow", False, "monitor: copy the log until the run is over")
flags.DEFINE_float("every_s", 5.0, "monitor --follow: seconds between two looks")
flags.DEFINE_string("out_dir", None, "fetch: where to; default: runs/RUN")
flags.DEFINE_bool("delete", False, "stop: remove everything made for the run, its files too")

# Not by absl's bounds, within which nan is.
flags.register_validator(
    "max_hours",
    lambda hours: hours is None or _MIN_HOURS <= hours <= _MAX_HOURS,
    f"give from {_MIN_HOURS} to {_MAX_HOURS} hours",
)
flags.register_validator(
    "price",
    lambda usd: usd is None or (usd >= 0 and math.isfinite(usd)),
    "give USD for an hour of one instance, 0 or more",
)
flags.register_validator(
    "every_s", lambda seconds: 0.1 <= seconds <= 3600, "give from 0.1 to 3600 seconds"
)


def say(text: str) -> None:
    """Tells the caller; standard output is for results."""
    # Where nobody listens any more, as when a terminal was closed, the work still goes on: what was
    # made is to be removed.
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
    if takes_run and len(rest) != 1:
        say(f"launch.ec2: {argv[1]} takes the name of one run")
        return 2
    if takes_run and not runs.valid_name(rest[0]):
        say(f"launch.ec2: {rest[0]!r} is no run's name; `list` shows what there is")
        return 2
    if not takes_run and rest and argv[1] != "deploy":
        say(f"launch.ec2: unexpected argument {rest[0]!r}")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _interrupt)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # where it found what, line by line
    try:
        aws = connect()
        return command(aws, _root(aws), *rest)
    except (LaunchError, S3Error) as error:
        say(f"launch.ec2: {error}")
    except botocore.exceptions.NoCredentialsError:
        say("launch.ec2: no AWS credentials were found: aws configure, or export AWS_PROFILE=...")
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        say(f"launch.ec2: AWS: {error}")
    except KeyboardInterrupt:
        say("launch.ec2: interrupted")
        return 130
    return 1


def _deploy(aws: Aws, root: Folder, *train_args: str) -> int:
    if not FLAGS.data_dir:
        raise LaunchError("--data_dir is missing: a data set's folder, or s3://BUCKET/PREFIX")
    stray = [argument for argument in train_args if not argument.startswith("--")]
    if stray:
        raise LaunchError(f"unexpected argument {stray[0]!r}; train.py's flags go after --")
    return _start(
        aws,
        plan.new(
            aws,
            root,
            PROJECT_DIR,
            flagfile=FLAGS.training_flagfile,
            train_args=train_args,
            data_dir=FLAGS.data_dir,
            name=FLAGS.name,
            instance_type=FLAGS.instance_type or "c5.24xlarge",
            system=FLAGS.os,
            image_id=FLAGS.image_id,
            spot=bool(FLAGS.spot),
            max_hours=FLAGS.max_hours or 12.0,
            price=FLAGS.price,
            subnet_id=FLAGS.subnet_id,
            ssh_cidr=FLAGS.ssh_cidr,
            key_name=FLAGS.key_name,
            num_instances=FLAGS.num_instances,
        ),
    )


def _resume(aws: Aws, root: Folder, name: str) -> int:
    given = [flag for flag in _OF_DEPLOY if FLAGS[flag].present]
    if given:
        asked = ", ".join(f"--{flag.removeprefix('training_')}" for flag in given)
        raise LaunchError(
            f"`resume` goes on with the run as it is and cannot change {asked}; it takes "
            "--instance_type, --spot, --max_hours and --price, `deploy` starts another run"
        )
    seen = monitor.look(aws, root, name)
    if seen.state == monitor.NOT_STARTED and seen.run.attempt == 1:
        raise LaunchError(f"{name} has not been started; the same deploy command goes on with it")
    if seen.live:
        had = ", ".join(one.id for one in seen.live)
        say(f"{name} has its instance{'s' if len(seen.live) > 1 else ''}: {had} ({seen.state})")
        print(name)
        return 0
    if seen.state == runs.FINISHED:
        raise LaunchError(f"{name} is finished; `fetch {name}` brings its files")
    return _start(
        aws,
        plan.again(
            aws,
            root,
            seen.run,
            instance_type=FLAGS.instance_type or "",
            spot=FLAGS.spot,
            max_hours=FLAGS.max_hours,
            price=FLAGS.price,
        ),
    )


def _start(aws: Aws, planned: deploy.Plan) -> int:
    plan.show(planned, aws, say)
    if not _is_confirmed("Start it?", "nothing was made"):
        return 0 if FLAGS.dry_run else 1
    run = deploy.execute(aws, planned, PROJECT_DIR, say)
    say(f"watch it: python -m launch.ec2 monitor {run.name} --follow")
    print(run.name)
    return 0


def _monitor(aws: Aws, root: Folder, name: str) -> int:
    if not FLAGS.follow:
        print(monitor.describe(monitor.look(aws, root, name)))
        return 0
    seen = monitor.follow(aws, root, name, every_s=FLAGS.every_s)
    say(monitor.describe(seen))
    return seen.exit_status


def _list(aws: Aws, root: Folder) -> int:
    lines = monitor.overview(aws, root)
    print("\n".join(lines) if lines else f"no runs in {root}, and nothing made in {aws.region}")
    return 0


def _fetch(aws: Aws, root: Folder, name: str) -> int:
    results.fetch(root, name, Path(FLAGS.out_dir or f"runs/{name}"), say)
    return 0


def _stop(aws: Aws, root: Folder, name: str) -> int:
    found = stop.found(aws, root, name)
    if not found:
        raise LaunchError(
            f"there is no run {name} in {root}, and nothing of that name in {aws.region}; `list` "
            "shows what there is"
        )
    if not FLAGS.delete:
        if runs.load(root, name) is None:
            raise LaunchError(
                f"{name} is not in {root} and cannot be asked to save; give its --prefix, or "
                f"remove it as it is: stop {name} --delete"
            )
        if FLAGS.dry_run:
            live = monitor.live_of(aws, name)
            say(f"dry run: nothing was ended; it has {', '.join(live) or 'no instance'}")
            return 0
        stop.end(aws, root, name, say)
        return 0
    say(f"removes, for good (first: fetch {name}):")
    for one in found:
        say(f"  {one}")
    if not _is_confirmed("Remove it?", "nothing was removed"):
        return 0 if FLAGS.dry_run else 1
    stop.end(aws, root, name, say, wait=True, save_for_s=0)
    stop.delete(aws, root, name, say)
    return 0


_TO_ASK = ("yes", "dry_run")
_TO_START = (*_OF_DEPLOY, *("instance_type", "spot", "max_hours", "price"), *_TO_ASK)
# What each calls, whether it takes a run's name, and its flags besides --prefix. `resume` says
# itself what it cannot change.
_COMMANDS: dict[str, tuple[Callable[..., int], bool, tuple[str, ...]]] = {
    "deploy": (_deploy, False, _TO_START),
    "monitor": (_monitor, True, ("follow", "every_s")),
    "list": (_list, False, ()),
    "fetch": (_fetch, True, ("out_dir",)),
    "stop": (_stop, True, ("delete", *_TO_ASK)),
    "resume": (_resume, True, _TO_START),
}
_ALL_FLAGS = sorted({flag for *_, takes in _COMMANDS.values() for flag in takes})


def _root(aws: Aws) -> Folder:
    if FLAGS.prefix:
        # It becomes part of a role's policy and of systemd's units, where others mean something.
        if not re.fullmatch("s3://[A-Za-z0-9._/-]+", FLAGS.prefix):
            raise LaunchError(
                f"--prefix={FLAGS.prefix}: give s3://BUCKET/PREFIX of letters, digits and . _ / -"
            )
        return dataset.folder_of(aws, FLAGS.prefix)
    return Folder(aws.s3, bucket.default_name(aws), "")


def _is_confirmed(question: str, otherwise: str) -> bool:
    """Whether to go on; if not, says what that means. A dry run asks nobody and does not."""
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
