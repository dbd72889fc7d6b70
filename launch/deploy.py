"""A run from its command line to its stack; a call interrupted anywhere can be made again."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch import aws as aws_lib
from launch import offers
from launch.aws import Aws, LaunchError, Stack
from launch.files import MANIFEST, FileError, Folder, check_data, named_by
from launch.offers import Machine
from launch.source import Source, pack

TEMPLATE = Path(__file__).parent / "stack.yaml"
_UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
_AMAZON = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"
IMAGES = {
    ("ubuntu", "x86_64"): _UBUNTU.format("amd64"),
    ("ubuntu", "arm64"): _UBUNTU.format("arm64"),
    ("amazon", "x86_64"): _AMAZON.format("x86_64"),
    ("amazon", "arm64"): _AMAZON.format("arm64"),
}
_ROOT_DEVICE = {"ubuntu": "/dev/sda1", "amazon": "/dev/xvda"}
# The system and the environment, with room for checkpoints and events.
_DISK_GB = 24
# Modules that train many models side by side.
_GRIDS = ("emotion_tfdata.grid",)
# A role's name has 64 characters, of which CloudFormation takes some.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, or any folder.

    Attributes:
      where: its folder here, or in S3.
      files: names and sizes, the manifest last.
      sha256: of the manifest, and so of every byte; empty where there is none.
      digest: of names and contents, what it is called in S3.
      clips: in it; 0 where the manifest does not say.
    """

    where: Path | Folder
    files: dict[str, int]
    sha256: str
    digest: str
    clips: int

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is to happen, looked up and checked; nothing is made yet.

    Attributes:
      name: of the run.
      parameters: of the stack.
      machines: the types it may be, the wanted one first.
      hours: that it takes, set-up included; None where it is not known.
      max_hours: the time limit.
      source, data: what to upload.
      notes: what else a person should know.
    """

    name: str
    parameters: dict[str, str]
    machines: list[Machine]
    hours: float | None
    max_hours: float
    source: Source
    data: Data | None
    notes: list[str]


def plan(
    aws: Aws | None,
    project_dir: Path,
    asked: argparse.Namespace,
    train_args: Sequence[str],
    say: Callable[[str], None],
) -> Plan:
    """Looks up and checks a new run.

    Args:
      aws: where; None for what can be said without an account.
      project_dir: the project's top folder.
      asked: the flags of `launch.ec2 deploy`.
      train_args: further arguments of train.py.
      say: told what is noticed.

    Raises:
      LaunchError, FileError: if something is not as it must be; nothing is made.
    """
    spot, command = bool(asked.spot), _command(project_dir, asked, train_args)
    is_grid = any(module in command for module in _GRIDS)
    names = (asked.instance_type or (offers.LARGE if is_grid else offers.SMALL)).split(",")
    names = [name.strip() for name in names]
    if len(names) > 3:
        raise LaunchError("--instance_type: give three types at most")
    if aws and not asked.instance_type:  # not every region has every type
        names = offers.offered(aws, names)
    source = pack(project_dir, command, say)
    data = find_data(aws, asked.data_dir) if asked.data_dir else None
    if data and not data.sha256 and command.startswith("python train.py"):
        raise LaunchError(
            f"--data_dir={asked.data_dir} holds no data set (no {MANIFEST}). Make one with: "
            "python -m preprocess.build_tfrecords --out_dir=..."
        )
    content = [source.sha256, data.digest if data else "", command, names, asked.os, spot]
    run = asked.name or _default_name(asked, command, content)
    if not _NAME.fullmatch(run):
        raise LaunchError(f"--name={run}: give up to 32 of a-z, 0-9 and -, the first no hyphen")
    requirements = "preprocess" if re.search(r"\bpreprocess\b", command) else "train"
    machines, of_machine = _machine_parameters(aws, names, asked.os, spot, requirements)
    parameters = {
        "SourceSha256": source.sha256,
        "Command": command,
        "DataSha256": data.sha256 if data else "",
        "Requirements": requirements,
        "DiskGb": str(max(30, _DISK_GB + -(-3 * (data.bytes if data else 0) // 10**9))),
        "Deadline": _deadline(asked.max_hours),
        "SetupS": str(round(asked.setup_minutes * 60)),
        "InstanceProfile": asked.instance_profile,
        "Notify": asked.notify,
        **of_machine,
    }
    notes = []
    if aws:
        folder, key = aws.run_folder(run), aws_lib.bucket_key(aws)
        notes.append(f"bucket     {folder.bucket}, {'to be made' if key is None else 'exists'}")
        notes.append(f"quota      {offers.check_quota(aws, machines[0], spot)}")
        network = offers.network(aws, asked.subnet_id)
        parameters |= {"Bucket": folder.bucket, "Folder": folder.prefix, "BucketKey": key or ""}
        parameters |= {"Vpc": network.vpc, "Subnets": ",".join(network.subnets)}
        parameters["PublicAddress"] = str(network.is_public).lower()
        if data:
            at = data.where if isinstance(data.where, Folder) else _data_folder(aws, data)
            parameters |= {"DataBucket": at.bucket, "DataFolder": at.prefix}
    trainings, epochs = _trainings(project_dir, command)
    if machines[0].vcpus > offers.IDLE_ABOVE_VCPUS * max(1, trainings) and not is_grid:
        notes.append(
            f"advice     a training keeps few of {machines[0].vcpus} vCPUs busy: "
            f"{offers.SMALL.partition(',')[0]} does for one, many are for a grid of trainings"
        )
    hours = None
    if trainings and data and data.clips:
        # Three fifths of the clips are trained on, each as it is and as a copy.
        through = data.clips * 1.2 * epochs * trainings
        hours = through / offers.CLIPS_PER_S / 3600 + offers.SETUP_H
    return Plan(run, parameters, machines, hours, asked.max_hours, source, data, notes)


def _command(project_dir: Path, asked: argparse.Namespace, train_args: Sequence[str]) -> str:
    """What to run: the given command, or a training."""
    command = str(asked.command)
    if command and train_args:
        raise LaunchError(f"{train_args[0]}: give it within --command")
    if not command:
        if not asked.data_dir:
            raise LaunchError("--data_dir is missing: a data set's folder, or s3://BUCKET/PREFIX")
        command = _train_command(project_dir, asked.flagfile, train_args)
    try:
        is_command = bool(shlex.split(command)) and len(command.splitlines()) == 1
    except ValueError:  # quotes that do not close
        is_command = False
    if not is_command:
        raise LaunchError(f"--command={command}: give one line as for a shell")
    return command


def _train_command(project_dir: Path, flagfile: str, more: Sequence[str]) -> str:
    top = project_dir.resolve()
    path = next((p.resolve() for p in (top / flagfile, Path(flagfile)) if p.is_file()), None)
    if path is None or not path.is_relative_to(top):
        raise LaunchError(f"--flagfile={flagfile} does not exist in {project_dir}")
    for argument in more:
        if not argument.startswith("--"):
            raise LaunchError(f"unexpected argument {argument!r}; train.py's flags go after --")
        if argument.lstrip("-").partition("=")[0] in ("data_dir", "model_dir", "flagfile"):
            raise LaunchError(f"{argument}: the machine has its own; leave it out after --")
    name = path.relative_to(top).as_posix()
    arguments = ["python", "train.py", f"--flagfile={name}", *more]
    return f"{shlex.join(arguments)} --data_dir={{data}} --model_dir={{out}}"


def _default_name(asked: argparse.Namespace, command: str, content: list[Any]) -> str:
    """Made from what the run does, so that the same call means the same run."""
    what = asked.flagfile
    if asked.command:  # `python FILE.py ...` or `python -m MODULE ...`
        words = [one for one in command.split() if one not in ("python", "-m")]
        what = "".join(words[:1]).removesuffix(".py").rpartition(".")[2]
    stem = re.sub("[^a-z0-9]+", "-", Path(what).stem.lower()).strip("-")[:20] or "run"
    return f"{stem}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"


def _machine_parameters(
    aws: Aws | None, names: Sequence[str], system: str, spot: bool, requirements: str
) -> tuple[list[Machine], dict[str, str]]:
    machines = offers.machines(aws, names)
    architectures = {one.architecture for one in machines}
    if len(architectures) > 1:
        raise LaunchError("--instance_type: the types are of several architectures; give one's")
    (architecture,) = architectures
    if requirements == "preprocess" and architecture == "arm64":
        raise LaunchError("mediapipe has no wheel for Graviton, so it cannot preprocess there")
    wanted = [*names, "", ""]
    return machines, {
        **{"InstanceType": wanted[0], "LikeType1": wanted[1], "LikeType2": wanted[2]},
        **{"Spot": str(spot).lower(), "Image": IMAGES[system, architecture]},
        "RootDevice": _ROOT_DEVICE[system],
    }


def _deadline(max_hours: float) -> str:
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=max_hours)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _trainings(project_dir: Path, command: str) -> tuple[int, int]:
    """How many trainings train.py is asked for, and of how many epochs; none by other commands."""
    if not command.startswith("python train.py"):
        return 0, 0
    values = flags.FlagValues()
    flags.DEFINE_integer("epochs", 60, "", flag_values=values)
    flags.DEFINE_integer("seeds", 1, "", flag_values=values)
    flags.DEFINE_string("folds", "", "", flag_values=values)
    arguments = shlex.split(command)[1:]
    arguments = [re.sub("^--flagfile=", f"--flagfile={project_dir}/", one) for one in arguments]
    values(arguments, known_only=True)
    folds = 5 if values.folds == "all" else len(values.folds.split(","))
    return folds * values.seeds, values.epochs


def find_data(aws: Aws | None, data_dir: str) -> Data:
    """Finds a data set here or in S3; one that is here is compared with its manifest.

    Raises:
      LaunchError: if there is none.
      FileError: if a file of it is missing or damaged.
    """
    where: Path | Folder
    if data_dir.startswith("s3://"):
        if aws is None:
            raise LaunchError(f"--data_dir={data_dir}: cannot be looked at without AWS")
        bucket, _, prefix = data_dir.removeprefix("s3://").partition("/")
        if not bucket or not prefix.strip("/"):
            raise LaunchError(f"--data_dir={data_dir}: give s3://BUCKET/PREFIX")
        owner = aws.account if bucket == aws.root.bucket else ""  # else it may be another's
        where = Folder(aws.root.client, bucket, prefix.strip("/"), owner)
        files = {one.name: one.bytes for one in where.objects("") if one.bytes}
        manifest = where.read(MANIFEST)
        missing = [name for name in named_by(manifest or b"{}") if name not in files]
        if missing:
            raise FileError(f"{where}/{missing[0]}: missing; the manifest names it")
    else:
        where = Path(data_dir)
        files = {
            path.relative_to(where).as_posix(): path.stat().st_size
            for path in sorted(where.rglob("*"))
            if path.is_file() and not any(p.startswith(".") for p in path.relative_to(where).parts)
        }
        manifest = (where / MANIFEST).read_bytes() if MANIFEST in files else None
    if not files:
        raise LaunchError(f"--data_dir={data_dir}: no such folder, or no files in it")
    sha256 = hashlib.sha256(manifest).hexdigest() if manifest else ""
    if isinstance(where, Path):
        check_data(where, sha256)
        if manifest:
            files[MANIFEST] = files.pop(MANIFEST)  # last: it vouches for the others
    digest = sha256 or hashlib.sha256(json.dumps(files).encode()).hexdigest()
    counts = [shard.get("records") for shard in json.loads(manifest or b"{}").get("shards", [])]
    clips = sum(len(one) if isinstance(one, list) else int(one or 0) for one in counts)
    return Data(where, files, sha256, digest, clips)


def _data_folder(aws: Aws, data: Data) -> Folder:
    return aws.root.folder(f"data/{data.digest}")


def show(plan: Plan, aws: Aws | None, spot: bool, say: Callable[[str], None]) -> None:
    """Tells a person all of it."""
    one, parameters = plan.machines[0], plan.parameters
    market = "spot: interrupted, it resumes on another machine" if spot else "on demand"
    say(f"run        {plan.name}: {parameters['Command']}")
    if plan.data:
        size = f"{len(plan.data.files)} files, {plan.data.bytes / 1e6:.1f} MB"
        say(f"data       {plan.data.where}: {size}")
    others = ", ".join(filter(None, [parameters["LikeType1"], parameters["LikeType2"]]))
    say(f"machine    {one.instance_type}{f', or {others}' if others else ''}, {market}")
    for note in plan.notes:
        say(note)
    usd = one.spot_usd if spot else one.usd
    price = "not known" if usd is None else f"${usd:.3f} an hour ({one.source})"
    if spot and usd is not None:
        price = f"${usd:.3f} an hour now, in the cheapest zone of {aws.region if aws else ''}"
    extras = offers.extras_usd(int(parameters["DiskGb"]))
    say(f"price      {price} + ${extras:.3f} disk and address")
    about = f"about {plan.hours:.1f} h, computed; " if plan.hours else ""
    say(f"time       {about}AWS ends it after {plan.max_hours:g} h in any case")
    if aws:
        say(f"makes      stack {aws_lib.PREFIX}{plan.name} in account {aws.account}, {aws.region}:")
        role = parameters["InstanceProfile"] or "a role for this run's files alone"
        say(f"           {role}; a firewall, nothing in; the machine; its deadline")
        say(f"           files in {aws.run_folder(plan.name)}; data in {aws.root}/data")
    say(f"removal    python -m launch.ec2 stop {plan.name} --delete")


def compare(plan: Plan, aws: Aws | None, say: Callable[[str], None]) -> None:
    """Time and cost of several types, and the stack's parameters, for `--dry_run`."""
    machines = list(plan.machines)
    for name in offers.COMPARED:
        if name not in {one.instance_type for one in machines}:
            with contextlib.suppress(LaunchError):  # not in this region
                machines += offers.machines(aws, [name])
    disk_gb = int(plan.parameters["DiskGb"])
    for line in offers.table(machines, plan.hours, plan.max_hours, disk_gb):
        say(line)
    say(
        f"Prices are of {aws.region if aws else ', '.join(offers.REGIONS)}, before tax and S3. "
        f"Time is computed with {offers.CLIPS_PER_S} clips/s, measured on two cores, for every "
        "type: more cores may be faster, and were not measured."
    )
    say("parameters of launch/stack.yaml, for AWS's console:")
    for name, value in sorted(plan.parameters.items()):
        say(f"  {name}={value}")


def execute(aws: Aws, plan: Plan, spot: bool, say: Callable[[str], None]) -> None:
    """Makes the stack without a machine, uploads, and then starts the machine.

    So whatever AWS refuses, it refuses before the upload; and a machine that cannot be set up takes
    back that last step alone. The same call again resumes where this one ended, and starts nothing
    twice.

    Raises:
      LaunchError, FileError: if it cannot be done.
      botocore.exceptions.BotoCoreError, ClientError: if AWS fails or refuses.
    """
    stack = aws_lib.find_stack(aws, plan.name)
    if stack and stack.is_changing:
        say(f"AWS is at work on {stack.name} ({stack.status}); waiting ...")
        try:
            stack = aws_lib.wait(aws, stack.id, aws_lib.newest_event(aws, stack.id), say)
        except LaunchError as error:
            say(str(error))
            stack = aws_lib.find_stack(aws, plan.name)
    stack = stack or _make_stack(aws, plan, spot, say)
    for key in ("SourceSha256", "Command", "DataSha256", "Bucket", "Folder"):
        if stack.parameters.get(key, "") != plan.parameters.get(key, ""):
            raise LaunchError(
                f"there is another run {plan.name} (its {key} differs); choose another --name, "
                f"or remove that one: stop {plan.name} --delete"
            )
    if stack.is_started:
        say(f"{plan.name} has been started already; `monitor` shows it, `resume` starts it again")
        return
    if plan.parameters["BucketKey"] == "" and aws_lib.bucket_key(aws) is None:
        aws_lib.make_bucket(aws)
        say(f"bucket {aws.root.bucket} made")
    folder = aws.run_folder(plan.name)
    folder.put("source.tar", plan.source.content)
    say(f"source is in {folder}: {len(plan.source.content) / 1e6:.1f} MB")
    if plan.data and isinstance(plan.data.where, Path):
        folder.put(aws_lib.UPLOADED, plan.data.digest.encode())
        _upload(plan.data, plan.data.where, _data_folder(aws, plan.data), say)
    start(aws, stack, plan.max_hours, say)


def _make_stack(aws: Aws, plan: Plan, spot: bool, say: Callable[[str], None]) -> Stack:
    """Makes a run's stack, all but its machine."""
    cloudformation, name = aws.client("cloudformation"), aws_lib.PREFIX + plan.name
    say(f"making stack {name} ...")
    tags = _tags(plan.name, plan.machines[0], spot, plan.parameters["DiskGb"])
    # There is one where this call, its answer lost, or another beside it made it.
    with contextlib.suppress(cloudformation.exceptions.AlreadyExistsException):
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
            Parameters=_given({**plan.parameters, "Machines": "0"}),
            Capabilities=["CAPABILITY_IAM"],
            OnFailure="DELETE",
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
    stack = aws_lib.find_stack(aws, plan.name)
    if stack is None:
        raise LaunchError(f"stack {name} was made and is gone again; try again")
    return aws_lib.wait(aws, stack.id, "", say)


def _upload(data: Data, where: Path, target: Folder, say: Callable[[str], None]) -> None:
    there = {one.name: one.bytes for one in target.objects("")}
    missing = [name for name, size in data.files.items() if there.get(name) != size]
    total, sent, begun = sum(data.files[name] for name in missing), 0, time.monotonic()
    for number, name in enumerate(missing, 1):
        target.upload(name, where / name)
        sent += data.files[name]
        rate = sent / max(time.monotonic() - begun, 1e-3)
        left = f"{rate / 1e6:.1f} MB/s, {(total - sent) / rate:.0f} s left"
        say(f"data {number}/{len(missing)}: {name}, {left}")
    say(f"data is in {target}: {data.bytes / 1e6:.1f} MB, of which {total / 1e6:.1f} MB were new")


def start(
    aws: Aws,
    stack: Stack,
    max_hours: float,
    say: Callable[[str], None],
    changes: dict[str, str] | None = None,
) -> None:
    """Starts a run's machine anew, and waits until it is set up.

    Raises:
      LaunchError: if it is not; then there is no machine any more, and the message says why.
    """
    if stack.is_started or changes:  # CloudFormation waits for a machine only where it starts one
        _update(aws, stack, {**(changes or {}), "Machines": "0"}, say)
    folder = aws.run_folder(stack.run)
    before = folder.read_json("status.json")
    status = {"state": "starting", "machine_s": before.get("machine_s", 0)}
    folder.put("status.json", json.dumps(status).encode())
    say("starting the machine; this takes some minutes. Ctrl-C ends this command, not the run.")
    _update(aws, stack, {"Machines": "1", "Deadline": _deadline(max_hours)}, say)
    say("the machine is set up")


def _update(aws: Aws, stack: Stack, changes: dict[str, str], say: Callable[[str], None]) -> None:
    """Changes parameters of a stack and waits for the end."""
    after, cloudformation = aws_lib.newest_event(aws, stack.id), aws.client("cloudformation")
    kept = [key for key in stack.parameters if key not in changes]
    same = [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
    try:
        cloudformation.update_stack(
            StackName=stack.name,
            UsePreviousTemplate=True,
            Parameters=[*_given(changes), *same],
            Capabilities=["CAPABILITY_IAM"],
            Tags=[{"Key": key, "Value": value} for key, value in stack.tags.items()],
        )
    except cloudformation.exceptions.ClientError as error:
        # An earlier call did it, whose answer was lost, or is at it; seen below.
        said = error.response["Error"]["Message"]
        if "No updates are to be performed" not in said and "_IN_PROGRESS" not in said:
            raise
    done = aws_lib.wait(aws, stack.id, after, say)
    if done.parameters["Machines"] != changes["Machines"]:
        raise LaunchError(f"another call changed {stack.name} at the same time; try again")


def _tags(name: str, machine: Machine, spot: bool, disk_gb: str) -> dict[str, str]:
    """What the stack is called, and what an hour of it costs, for `monitor`."""
    usd = machine.spot_usd if spot and machine.spot_usd is not None else machine.usd
    tags = {"emotion-tfdata:run": name}
    if usd is not None:
        tags["emotion-tfdata:usd-per-hour"] = f"{usd + offers.extras_usd(int(disk_gb)):.6f}"
    return tags


def _given(parameters: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]


def resume(aws: Aws, stack: Stack, asked: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Starts another machine for a run that has none; it resumes from what is saved.

    Args:
      aws: where.
      stack: the run's.
      asked: the flags of `launch.ec2 resume`.
      say: told what happens.

    Raises:
      LaunchError: if it cannot be.
    """
    before, tags = stack.parameters, stack.tags
    changes: dict[str, str] = {}
    if asked.instance_type or asked.spot is not None:
        same = ",".join(before[key] for key in ("InstanceType", "LikeType1", "LikeType2"))
        names = [one.strip() for one in (asked.instance_type or same).split(",") if one.strip()]
        system = next(key for key, name in _ROOT_DEVICE.items() if name == before["RootDevice"])
        spot = before["Spot"] == "true" if asked.spot is None else asked.spot
        machines, found = _machine_parameters(aws, names, system, spot, before["Requirements"])
        tags = _tags(stack.run, machines[0], spot, before["DiskGb"])
        say(f"quota      {offers.check_quota(aws, machines[0], spot)}")
        changes = {key: value for key, value in found.items() if before.get(key) != value}
    start(aws, dataclasses.replace(stack, tags=tags), asked.max_hours, say, changes)
