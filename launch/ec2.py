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
`python -m launch.ec2 COMMAND --help` lists the flags of a command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

_missing = ""
try:
    import botocore.exceptions
    import botocore.parsers

    from launch import aws as aws_lib
    from launch import deploy, monitor
    from launch.aws import Aws, LaunchError, Stack
    from launch.files import FileError
except ModuleNotFoundError as error:  # --help and the policy need none of it
    _missing = (error.name or "").partition(".")[0]

PROJECT_DIR = Path(__file__).resolve().parent.parent
# A machine that is ended has two minutes to save.
_END_S = 300.0


def say(text: str) -> None:
    """Tells the caller; standard output is for results."""
    # Where nobody listens any more, as when a terminal was closed, the work still continues.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _matches(pattern: str, what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"give {what}")
        return text

    return check


def _between(low: float, high: float) -> Callable[[str], float]:
    def check(text: str) -> float:
        try:
            if low <= float(text) <= high:  # nan is not
                return float(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"give a number from {low} to {high}")

    return check


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="launch.ec2",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="name_of_command", required=True, metavar="COMMAND")
    # It becomes part of a policy and of a script, where other letters mean something.
    prefix = _matches("(s3://[A-Za-z0-9._/-]+)?", "s3://BUCKET/PREFIX of letters, digits, . _ / -")
    run = _matches("[a-z0-9][a-z0-9-]*", "the name of one run; `list` shows them")

    def add(does: Callable[[argparse.Namespace], int], what: str, takes_run: bool = True) -> Any:
        name = does.__name__.strip("_")
        command = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        command.set_defaults(does=does)
        if takes_run:
            command.add_argument("run", type=run, help="the run's name; `list` shows them")
        where = "s3://BUCKET/PREFIX for everything; default: a bucket of its own, made if missing"
        command.add_argument("--prefix", default="", type=prefix, help=where)
        return command.add_argument

    def asks(flag: Any) -> None:
        flag("--yes", action="store_true", help="do not ask")
        flag("--dry_run", action="store_true", help="show what would be done, with its cost")

    def starts(flag: Any) -> None:
        types = "up to three, the first with room is taken; default: two cores, 48 for a grid"
        flag("--instance_type", default="", help=types)
        spot = "cheaper; interrupted, it resumes on another machine by itself"
        flag("--spot", action="store_true", default=None, help=spot)
        flag("--nospot", dest="spot", action="store_false", help="on demand")
        limit = "when AWS ends the machine in any case, in hours from now; default: 12"
        flag("--max_hours", type=_between(0.2, 744), default=12.0, help=limit)
        asks(flag)

    flag = add(_deploy, "start a run; flags of train.py go after --", takes_run=False)
    flag("--flagfile", default="tcn.flags", help="the training's flags")
    command = "what to run instead of a training; files in {out} are kept in S3 and resumed from"
    flag("--command", default="", help=command)
    flag("--data_dir", default="", help="a data set or any folder, here or s3://: {data}")
    flag("--name", default="", help="the run's name; default: made from what it runs")
    flag("--os", default="ubuntu", choices=["amazon", "ubuntu"], help="Ubuntu 24.04 or AL2023")
    setup = "how long AWS may look for a machine and set it up; default: 45"
    flag("--setup_minutes", type=_between(10, 720), default=45.0, help=setup)
    flag("--subnet_id", type=lambda text: text.split(","), default=[], help="default: the VPC's")
    flag("--instance_profile", default="", help="an existing one, where you may make no role")
    flag("--notify", default="", help="e-mail address to tell when the run is over")
    flag("--print_policy", action="store_true", help="print what the caller must be allowed")
    starts(flag)
    flag = add(_monitor, "show a run")
    flag("--follow", action="store_true", help="copy the log until the run is over")
    flag("--every_s", type=_between(0.1, 3600), default=5.0, help="seconds between two looks")
    add(_list, "show all runs", takes_run=False)
    add(_fetch, "bring a run's files")("--out_dir", default="", help="default: runs/RUN")
    flag = add(_stop, "end a run's machine, which saves as it goes down")
    flag("--delete", action="store_true", help="remove everything made for the run, files too")
    asks(flag)
    starts(add(_resume, "start another machine for a run"))
    return top


def main(argv: Sequence[str]) -> int:
    """Runs a command; returns its exit status."""
    ours, train_args = list(argv), []
    if "--" in ours:
        at = ours.index("--")
        ours, train_args = ours[:at], ours[at + 1 :]
    parser = _parser()
    args, others = parser.parse_known_args(ours)
    if others or (train_args and args.does is not _deploy):
        unknown = (others or train_args)[0]
        parser.error(f"{args.name_of_command} takes no {unknown}")
    args.train_args = train_args
    if args.does is _deploy and args.print_policy:
        print((PROJECT_DIR / "launch" / "policy.json").read_text(encoding="utf-8"), end="")
        return 0
    if _missing:
        say(f"launch.ec2 needs {_missing}: pip install -c launch/constraints.txt -e '.[aws,train]'")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _interrupt)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # where it found what, line by line
    try:
        return int(args.does(args))
    except (LaunchError, FileError) as error:
        say(f"launch.ec2: {error}")
    except botocore.exceptions.NoCredentialsError:
        say("launch.ec2: no AWS credentials were found: aws configure, or export AWS_PROFILE=...")
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        say(f"launch.ec2: AWS: {error}")
    except botocore.parsers.ResponseParserError as error:  # as of a proxy on the way
        say(f"launch.ec2: what answered is not AWS: {' '.join(str(error).split())[:300]}")
    except KeyboardInterrupt:
        say("launch.ec2: interrupted; AWS continues with what was asked, and `list` shows it")
        return 130
    return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _deploy(args: argparse.Namespace) -> int:
    aws: Aws | None = None
    try:
        aws = aws_lib.connect(args.prefix)
    except (LaunchError, botocore.exceptions.BotoCoreError) as error:
        if not args.dry_run:
            raise
        say(f"without AWS ({error}): account, network and quota are not checked")
    plan = deploy.plan(aws, PROJECT_DIR, args, args.train_args, say)
    deploy.show(plan, aws, bool(args.spot), say)
    if args.dry_run:
        deploy.compare(plan, aws, say)
    if not _is_confirmed(args, "Start it?", "nothing was made"):
        return 0 if args.dry_run else 1
    assert aws
    deploy.execute(aws, plan, bool(args.spot), say)
    say(f"watch it: python -m launch.ec2 monitor {plan.name} --follow")
    print(plan.name)
    return 0


def _resume(args: argparse.Namespace) -> int:
    aws, name = aws_lib.connect(args.prefix), args.run
    seen = monitor.look(aws, name)
    if seen.stack is None:
        raise LaunchError(
            f"the stack of {name} is gone; deploy with --name={name} resumes from its files"
        )
    if seen.machine or (seen.state == monitor.WAITING):
        say(f"{name} is at work: {seen.state}")
        print(name)
        return 0
    if seen.state == monitor.FINISHED:
        raise LaunchError(f"{name} is finished; `fetch {name}` brings its files")
    say(monitor.describe(aws, seen))
    if not _is_confirmed(
        args, f"Start a machine, for {args.max_hours:g} h at most?", "not started"
    ):
        return 0 if args.dry_run else 1
    deploy.resume(aws, seen.stack, args, say)
    print(name)
    return 0


def _monitor(args: argparse.Namespace) -> int:
    aws = aws_lib.connect(args.prefix)
    if not args.follow:
        print(monitor.describe(aws, monitor.look(aws, args.run)))
        return 0
    seen = monitor.follow(aws, args.run, every_s=args.every_s)
    say(monitor.describe(aws, seen))
    return seen.exit_status


def _list(args: argparse.Namespace) -> int:
    aws = aws_lib.connect(args.prefix)
    print("\n".join(monitor.overview(aws)) or f"no runs in {aws.region} and {aws.root}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    name = args.run
    aws, out_dir = aws_lib.connect(args.prefix), Path(args.out_dir or f"runs/{name}")
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


def _stop(args: argparse.Namespace) -> int:
    """Ends the machine first, which needs nothing of S3."""
    aws, name = aws_lib.connect(args.prefix), args.run
    stack, folder = aws_lib.find_stack(aws, name), aws.run_folder(name)
    if stack is None and not (args.delete and folder.objects()):
        raise LaunchError(f"there is no run {name} in {aws.region}; `list` shows them")
    if not args.delete:
        if args.dry_run:
            say("dry run: nothing was ended")
        elif stack:
            _end(aws, stack)
            say(f"{name} has no machine; `resume {name}` resumes from what it saved")
        return 0
    say(f"removes, for good (first: fetch {name}):")
    say(f"  stack {stack.name}: its machine, role and firewall" if stack else "  no stack")
    say(f"  files in {folder}, and its data set if no other run has it")
    if not _is_confirmed(args, "Remove it?", "nothing was removed"):
        return 0 if args.dry_run else 1
    if stack:
        _end(aws, stack)
        aws.client("cloudformation").delete_stack(StackName=stack.name)
        aws_lib.wait(aws, stack.id, aws_lib.newest_event(aws, stack.id), say)
        say(f"stack {stack.name} removed")
    removed = 0
    # Where this is interrupted, the run's own files still say which data was uploaded for it.
    uploaded = (folder.read(aws_lib.UPLOADED) or b"").decode()
    data = aws.root.folder(f"data/{uploaded}")
    if uploaded and data.prefix not in {
        one.parameters.get("DataFolder") for one in aws_lib.stacks(aws)
    }:
        removed += data.delete_all()
    removed += folder.delete_all(last=aws_lib.UPLOADED)
    say(f"{removed} files removed; the bucket stays")
    return 0


def _end(aws: Aws, stack: Stack) -> None:
    """Has AWS end the machine, which saves as it goes down, and waits until it is gone."""
    aws_lib.end_machine(aws, stack.name)
    if stack.status == "UPDATE_IN_PROGRESS":  # still being set up; AWS would wait for that
        aws.client("cloudformation").cancel_update_stack(StackName=stack.name)
        with contextlib.suppress(LaunchError):
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
    say(f"{told} takes long to end; AWS continues with it")


def _is_confirmed(args: argparse.Namespace, question: str, otherwise: str) -> bool:
    """Whether to go ahead; if not, says what that means. A dry run asks nobody and does not."""
    if args.dry_run:
        say(f"dry run: {otherwise}")
        return False
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise LaunchError("nobody is there to ask; pass --yes to proceed")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    say(otherwise)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
