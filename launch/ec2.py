"""Run a command of the project on an EC2 machine that ends itself, and watch it.

    python -m launch.ec2 deploy --flagfile=tcn.flags --data_dir=DIR|s3://... [-- TRAIN.PY'S FLAGS]
    python -m launch.ec2 deploy --command='python -m ... {data} {out}' [--data_dir=DIR|s3://...]
    python -m launch.ec2 monitor RUN --follow

A run is one CloudFormation stack, launch/stack.yaml, and a folder of S3. Region and credentials
come from AWS's usual places: environment, ~/.aws, an instance's role; launch/policy.json says what
they must be allowed. `deploy` prints the run's name on standard output, all else on standard error.
`python -m launch.ec2 COMMAND --help` lists the flags of a command.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_missing = ""
try:
    import botocore.exceptions
    import botocore.parsers

    from launch import aws as aws_lib
    from launch import deploy, monitor
    from launch.aws import Aws, LaunchError, say
    from launch.files import FileError

    _OF_AWS = (
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        botocore.parsers.ResponseParserError,  # where a proxy on the way answers
    )
except ModuleNotFoundError as error:  # --help needs none of it
    _missing = (error.name or "").partition(".")[0]

PROJECT_DIR = Path(__file__).resolve().parent.parent


def _matches(pattern: str, what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"give {what}")
        return text

    return check


def _between(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        if low <= float(text) <= high:  # nan is not
            return float(text)
        raise argparse.ArgumentTypeError(f"give a number from {low} to {high}")

    return number


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
    # CloudFormation makes names of roles from it, of 64 characters.
    run = _matches("[a-z0-9][a-z0-9-]{0,31}", "a run's name: up to 32 of a-z, 0-9 and -")

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
        types = "up to three, the first with room; default: 2 cores, or 48 for several trainings"
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
    flag("--name", type=run, help="the run's name; default: made from what it runs")
    flag("--os", default="ubuntu", choices=["amazon", "ubuntu"], help="Ubuntu 24.04 or AL2023")
    setup = "how long AWS may look for a machine and set it up; default: 45"
    flag("--setup_minutes", type=_between(10, 720), default=45.0, help=setup)
    flag("--subnet_id", type=lambda text: text.split(","), default=[], help="default: the VPC's")
    flag("--instance_profile", default="", help="an existing one, where you may make no role")
    flag("--notify", default="", help="e-mail address to tell when the run ends, however it does")
    starts(flag)
    flag = add(_monitor, "show a run")
    flag("--follow", action="store_true", help="copy the log until the run is over")
    add(_list, "show all runs", takes_run=False)
    add(_fetch, "bring a run's files")("--out_dir", default="", help="default: runs/RUN")
    flag = add(_stop, "end a run's machine, which saves as it goes down")
    flag("--delete", action="store_true", help="remove everything made for the run, files too")
    asks(flag)
    starts(add(_resume, "start another machine for a run"))
    return top


def main(argv: Sequence[str]) -> int:
    """Run a command line; return its exit status."""
    ours, train_args = list(argv), []
    if "--" in ours:
        at = ours.index("--")
        ours, train_args = ours[:at], ours[at + 1 :]
    parser = _parser()
    args = parser.parse_args(ours)
    args.train_args = train_args
    if train_args and args.does is not _deploy:
        parser.error(f"unrecognized arguments: {' '.join(train_args)}")
    if _missing:
        needed = "pip install -c launch/constraints.txt -e '.[aws,train]'"
        parser.exit(1, f"launch.ec2 needs {_missing}: {needed}\n")
    logging.getLogger("botocore").setLevel(logging.WARNING)  # where it found what, line by line
    try:
        return int(args.does(args))
    except (LaunchError, FileError) as error:
        say(f"launch.ec2: {error}")
    except botocore.exceptions.NoCredentialsError:
        say("launch.ec2: no AWS credentials were found: aws configure, or export AWS_PROFILE=...")
    except _OF_AWS as error:
        say(f"launch.ec2: AWS: {' '.join(str(error).split())[:500]}")
    except KeyboardInterrupt:
        say("launch.ec2: interrupted; AWS continues with what was asked, and `list` shows it")
        return 130
    return 1


def _deploy(args: argparse.Namespace) -> int:
    aws: Aws | None = None
    try:
        aws = aws_lib.connect(args.prefix)
    except (LaunchError, botocore.exceptions.BotoCoreError) as error:
        if not args.dry_run:
            raise
        say(f"without AWS ({error}): account and network are not checked")
    plan = deploy.plan(aws, PROJECT_DIR, args)
    deploy.show(plan, aws, deploy.offers.COMPARED if args.dry_run else ())
    _confirm(args, "Start it?", "nothing was made")
    assert aws
    deploy.execute(aws, plan)
    say(f"watch it: python -m launch.ec2 monitor {plan.name} --follow")
    print(plan.name)
    return 0


def _resume(args: argparse.Namespace) -> int:
    aws, name = aws_lib.connect(args.prefix), args.run
    seen = monitor.find(aws, name)
    say(monitor.describe(aws, seen))
    if seen.state == monitor.FINISHED:
        raise LaunchError(f"{name} is finished; `fetch {name}` brings its files")
    if not seen.machine and seen.state != monitor.WAITING:
        _confirm(args, f"Start a machine, for {args.max_hours:g} h at most?", "not started")
        deploy.resume(aws, seen.stack, args)
    print(name)
    return 0


def _monitor(args: argparse.Namespace) -> int:
    aws = aws_lib.connect(args.prefix)
    if not args.follow:
        print(monitor.describe(aws, monitor.find(aws, args.run)))
        return 0
    seen = monitor.follow(aws, args.run)
    say(monitor.describe(aws, seen))
    return seen.exit_status


def _list(args: argparse.Namespace) -> int:
    aws = aws_lib.connect(args.prefix)
    print("\n".join(monitor.overview(aws)) or f"no runs in {aws.region} and {aws.root}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    aws, name = aws_lib.connect(args.prefix), args.run
    folder, out_dir = aws.run_folder(name), Path(args.out_dir or f"runs/{name}")
    if not folder.objects("status.json"):
        raise LaunchError(f"there is no run {name} in {aws.root}; `list` shows what there is")
    mark = out_dir / f".of-run-{name}"
    if out_dir.is_dir() and any(out_dir.iterdir()) and not mark.exists():
        raise LaunchError(f"{out_dir} holds other files; choose another --out_dir")
    out_dir.mkdir(parents=True, exist_ok=True)
    mark.touch()
    # The command's folder becomes this one, so that train.py can resume in it.
    for part, to in (("out", out_dir), ("log", out_dir / "log")):
        for path, is_new in folder.folder(part).download_all(to):
            say(f"{path}{'' if is_new else ' is here'}")
    return 0


def _stop(args: argparse.Namespace) -> int:
    """Stop a run; the machine ends first, which needs nothing of S3."""
    aws, name = aws_lib.connect(args.prefix), args.run
    stack, folder = aws_lib.find_stack(aws, name), aws.run_folder(name)
    if stack is None and not (args.delete and folder.objects()):
        raise LaunchError(f"there is no run {name} in {aws.region}; `list` shows them")
    if args.delete:
        say(f"removes for good its stack and the files in {folder} (first: fetch {name}), and its")
        say("data set, if it was uploaded from here and no other run has it")
    if args.delete or args.dry_run:
        _confirm(args, "Remove it?", "nothing was done")
    if stack:
        aws_lib.end_machine(aws, stack)
    if not args.delete:
        say(f"{name} has no machine; `resume {name}` resumes from what it saved")
        return 0
    removed = folder.delete_all()
    if stack:  # until the end it says which data is the run's
        bucket, prefix = stack.parameters["DataBucket"], stack.parameters["DataFolder"]
        data = dataclasses.replace(aws.root, bucket=bucket, prefix=prefix)
        uses = [one.parameters.get("DataFolder") for one in aws_lib.stacks(aws)]
        if str(data).startswith(f"{aws.root.folder('data')}/") and uses.count(prefix) == 1:
            removed += data.delete_all()
        aws.client("cloudformation").delete_stack(StackName=stack.name)
        aws_lib.wait(aws, stack.id)
    say(f"{removed} files removed; the bucket stays")
    return 0


def _confirm(args: argparse.Namespace, question: str, otherwise: str) -> None:
    """Ask whether to go ahead, and exit if not; a dry run asks nobody and exits."""
    if args.dry_run:
        say(f"dry run: {otherwise}")
        sys.exit(0)
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise LaunchError("nobody is there to ask; pass --yes to proceed")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        say(otherwise)
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
