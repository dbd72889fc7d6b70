"""Deploy a run: from its command line to its stack. An interrupted call can be repeated."""

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch import aws as aws_lib
from launch import offers
from launch.aws import Aws, LaunchError, Stack, say
from launch.files import MANIFEST, FileError, Folder, check_data, named_by
from launch.offers import Machine
from launch.source import pack

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
# Of one training on two cores (four vCPUs): 226 clips/s through the model were measured, less for
# input and saving. No training was ever seen to use more than 16 vCPUs.
CLIPS_PER_S = 150
_VCPUS_EACH, _MOST_VCPUS_EACH = 4, 16
_SETUP_H = 10 / 60


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, or any other folder of files; without files where a run needs none."""

    where: Path | Folder  # here, or in S3
    files: dict[str, int]  # names and sizes, the manifest last
    manifest: bytes  # empty where there is none

    @property
    def bytes(self) -> int:
        """Return the size of all files together."""
        return sum(self.files.values())

    @property
    def digest(self) -> str:
        """Return a SHA-256 of names and contents, its folder's name in S3."""
        return hashlib.sha256(self.manifest or json.dumps(self.files).encode()).hexdigest()

    def in_s3(self, aws: Aws) -> Folder:
        """Return its folder in S3, or the one to upload it to."""
        if isinstance(self.where, Path):
            return aws.root.folder(f"data/{self.digest}")
        return self.where


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run to deploy, looked up and checked; nothing is made yet."""

    name: str  # of the run
    parameters: dict[str, str]  # of the stack
    machines: list[Machine]  # the types it may be, the wanted one first
    trainings: int  # 0 for other commands
    clips: float  # through the model in each; 0 where it is not known
    max_hours: float
    source: bytes
    data: Data

    def hours(self, machine: Machine) -> float | None:
        """Estimate the hours on a machine, set-up included; None if not known."""
        if not self.clips or not self.trainings:
            return None
        rounds = -(-self.trainings // max(1, machine.vcpus // _VCPUS_EACH))
        return rounds * self.clips / CLIPS_PER_S / 3600 + _SETUP_H


def plan(aws: Aws | None, project_dir: Path, asked: argparse.Namespace) -> Plan:
    """Look up and check all that a new run needs.

    Args:
      aws: the account; None for a plan without one, of what can be known here.
      project_dir: the project's top folder.
      asked: the flags of `launch.ec2 deploy`, with train.py's as `train_args`.

    Raises:
      LaunchError, FileError: if something is not as it must be; nothing is made.
    """
    command = _command(asked)
    source, sha256 = pack(project_dir, command)
    data = find_data(aws, asked.data_dir) if asked.data_dir else Data(Path(), {}, b"")
    trainings, epochs = _trainings(project_dir, command)
    if trainings and data.files and not data.manifest:
        raise LaunchError(
            f"--data_dir={asked.data_dir} holds no data set (no {MANIFEST}). Make one with: "
            "python -m preprocess.build_tfrecords --out_dir=..."
        )
    is_grid = trainings > 1 or "emotion_tfdata.grid" in command
    default = offers.LARGE if is_grid else offers.SMALL
    machines, of_machine = _machine_parameters(aws, asked, default, command)
    content = json.dumps([sha256, data.digest, command, of_machine])
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    run = asked.name or f"{_stem(asked.command or asked.flagfile)}-{digest}"
    parameters = {"Command": command, "SourceSha256": sha256} | of_machine
    if aws:
        folder = aws.run_folder(run)
        vpc, subnets = offers.network(aws, asked.subnet_id)
        at = data.in_s3(aws)
        aws_lib.has_bucket(aws)
        parameters |= {"Bucket": folder.bucket, "Folder": folder.prefix}
        parameters |= {"DataBucket": at.bucket, "DataFolder": at.prefix}
        parameters |= {"Vpc": vpc, "Subnets": ",".join(subnets)}
    parameters |= {
        "DiskGb": str(max(30, _DISK_GB + -(-3 * data.bytes // 10**9))),
        "Deadline": _deadline(asked.max_hours),
        "SetupS": str(round(asked.setup_minutes * 60)),
        "InstanceProfile": asked.instance_profile,
        "Notify": asked.notify,
    }
    shards = json.loads(data.manifest or b"{}").get("shards", [])
    # Three fifths of the clips are trained on, each as it is and as a copy.
    clips = 1.2 * epochs * sum(shard["records"] for shard in shards)
    return Plan(run, parameters, machines, trainings, clips, asked.max_hours, source, data)


def _command(asked: argparse.Namespace) -> str:
    """Return the command to run: the given one, or a training."""
    command, more = str(asked.command).strip(), asked.train_args
    if command:
        try:
            shlex.split(command)
        except ValueError as error:  # quotes that do not close
            raise LaunchError(f"--command={command}: {error}") from error
        if more:
            raise LaunchError(f"{more[0]}: give it within --command")
        return command
    if not asked.data_dir:
        raise LaunchError("--data_dir is missing: a data set's folder, or s3://BUCKET/PREFIX")
    if Path(asked.flagfile).is_absolute():  # the machine has another top folder
        raise LaunchError(f"--flagfile={asked.flagfile}: give its path from the project's top")
    for argument in more:
        if argument.lstrip("-").partition("=")[0] in ("data_dir", "model_dir", "flagfile"):
            raise LaunchError(f"{argument}: the machine has its own; leave it out after --")
    training = shlex.join(["python", "train.py", f"--flagfile={asked.flagfile}", *more])
    return f"{training} --data_dir={{data}} --model_dir={{out}}"


def _stem(what: str) -> str:
    """Return what to name a run after: its flag file, FILE.py or MODULE."""
    words = [one for one in what.split() if one not in ("python", "-m")]
    name = re.sub("[.](py|flags)$", "", words[0].lower()) if words else ""
    return re.sub("[^a-z0-9]+", "-", re.split("[./]", name)[-1]).strip("-")[:20] or "run"


def _machine_parameters(
    aws: Aws | None, asked: argparse.Namespace, default: Sequence[str], command: str
) -> tuple[list[Machine], dict[str, str]]:
    given = asked.instance_type.split(",") if asked.instance_type else []
    machines = offers.machines(aws, given or default)
    names = [one.instance_type for one in machines]
    if missing := [name for name in given if name not in names]:
        raise LaunchError(f"--instance_type={missing[0]}: not in this region")
    if len(names) > 3:
        raise LaunchError("--instance_type: give three types at most")
    if len({one.architecture for one in machines}) > 1:
        raise LaunchError("--instance_type: the types are of several architectures; give one's")
    architecture = machines[0].architecture
    if architecture == "arm64" and re.search(r"\bpreprocess\b", command):
        raise LaunchError("mediapipe has no wheel for Graviton, so it cannot preprocess there")
    wanted = [*names, "", ""]
    return machines, {
        **{"InstanceType": wanted[0], "LikeType1": wanted[1], "LikeType2": wanted[2]},
        **{"Spot": str(bool(asked.spot)).lower(), "Image": IMAGES[asked.os, architecture]},
        "RootDevice": _ROOT_DEVICE[asked.os],
    }


def _deadline(max_hours: float) -> str:
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=max_hours)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _trainings(project_dir: Path, command: str) -> tuple[int, int]:
    """Return how many trainings a command does, by train.py's flags, and the epochs of each."""
    if not command.startswith("python train.py"):
        return 0, 0
    values = flags.FlagValues()
    flags.DEFINE_integer("epochs", 60, "", flag_values=values)
    flags.DEFINE_integer("seeds", 1, "", flag_values=values)
    flags.DEFINE_list("folds", [], "", flag_values=values)
    arguments = shlex.split(command)[1:]
    arguments = [re.sub("^--flagfile=", f"--flagfile={project_dir}/", one) for one in arguments]
    try:
        values(arguments, known_only=True)
    except flags.Error as error:
        raise LaunchError(f"{command}: {error}") from error
    folds = 5 if values.folds == ["all"] else max(1, len(values.folds))
    return folds * values.seeds, values.epochs


def find_data(aws: Aws | None, data_dir: str) -> Data:
    """Find a data set here or in S3; compare one that is here with its manifest.

    Raises:
      LaunchError: if there is none.
      FileError: if a file of it is missing or damaged.
    """
    where: Path | Folder
    if data_dir.startswith("s3://"):
        bucket, _, prefix = data_dir.removeprefix("s3://").partition("/")
        if aws is None or not prefix.strip("/"):
            raise LaunchError(f"--data_dir={data_dir}: give s3://BUCKET/PREFIX, and credentials")
        where = Folder(aws.root.client, bucket, prefix.strip("/"))
        files = {one.name: one.bytes for one in where.objects() if one.bytes}
        manifest = where.read(MANIFEST) or b""
        if missing := sorted(set(named_by(manifest)) - set(files)):
            raise FileError(f"{where}/{missing[0]}: missing; the manifest names it")
    else:
        where = Path(data_dir)
        paths = [path for path in sorted(where.rglob("*")) if path.is_file()]
        names = [path.relative_to(where) for path in paths]
        names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        files = {name.as_posix(): (where / name).stat().st_size for name in names}
        manifest = b""
        if MANIFEST in files:
            files[MANIFEST] = files.pop(MANIFEST)  # last: it vouches for the others
            manifest = (where / MANIFEST).read_bytes()
            check_data(where)
    if not files:
        raise LaunchError(f"--data_dir={data_dir}: no such folder, or no files in it")
    return Data(where, files, manifest)


def show(plan: Plan, aws: Aws | None, others: Sequence[str]) -> None:
    """Print a plan, with time and cost on its machines and on other types."""
    where = f", a stack in account {aws.account}, {aws.region}" if aws else ""
    say(f"run {plan.name}{where}; launch/stack.yaml with")
    for name, value in plan.parameters.items():
        say(f"  {name}={value}")
    if plan.data.files:
        size = f"{len(plan.data.files)} files, {plan.data.bytes / 1e6:.1f} MB"
        say(f"data {plan.data.where}: {size}")
    asked = {one.instance_type for one in plan.machines}
    compared = [name for name in others if name not in asked]
    machines = plan.machines + (offers.machines(aws, compared) if compared else [])
    hours, disk_gb = [plan.hours(one) for one in machines], int(plan.parameters["DiskGb"])
    for line in offers.table(machines, hours, plan.max_hours, disk_gb):
        say(line)
    say(f"Prices: {machines[0].source}, with disk and address, before tax and S3.")
    if plan.trainings:
        say(f"Hours: computed with {CLIPS_PER_S} clips/s a training, as measured on two cores,")
        say(f"and a training at a time for each {_VCPUS_EACH} vCPUs.")
    say(f"AWS ends it after {plan.max_hours:g} h at most.")
    busy, vcpus = _MOST_VCPUS_EACH * plan.trainings, plan.machines[0].vcpus
    if 0 < 2 * busy < vcpus:
        say(
            f"advice: {busy} of {vcpus} vCPUs are busy at most, and {_VCPUS_EACH * plan.trainings} "
            "keep the rate; give a smaller --instance_type"
        )


def execute(aws: Aws, plan: Plan) -> None:
    """Create the stack without a machine, upload, and then start the machine.

    So what AWS refuses, it refuses before the upload, and only the last step is rolled back if the
    machine cannot be set up. The same call again resumes where an interrupted one ended.

    Raises:
      LaunchError, FileError: if it cannot be done.
      botocore.exceptions.BotoCoreError, ClientError: if AWS fails or refuses.
    """
    stack = aws_lib.find_stack(aws, plan.name)
    if stack and stack.is_changing:
        say(f"AWS is at work on {stack.name} ({stack.status}); waiting ...")
        with contextlib.suppress(LaunchError):
            aws_lib.wait(aws, stack.id)
        stack = aws_lib.find_stack(aws, plan.name)
    stack = stack or _make_stack(aws, plan)
    for key in ("SourceSha256", "Command", "DataBucket", "DataFolder", "Bucket", "Folder"):
        if stack.parameters.get(key) != plan.parameters[key]:
            raise LaunchError(
                f"there is another run {plan.name} (its {key} differs); choose another --name, "
                f"or remove that one: stop {plan.name} --delete"
            )
    if stack.is_started:
        say(f"{plan.name} has been started already; `monitor` shows it, `resume` starts it again")
        return
    if not aws_lib.has_bucket(aws):
        aws_lib.make_bucket(aws)
        say(f"bucket {aws.root.bucket} made")
    folder = aws.run_folder(plan.name)
    folder.put("source.tar", plan.source)
    say(f"source is in {folder}: {len(plan.source) / 1e6:.1f} MB")
    if plan.data.files and isinstance(plan.data.where, Path):
        _upload(plan.data, plan.data.where, plan.data.in_s3(aws))
    _start(aws, stack, plan.parameters, plan.machines[0], plan.max_hours)


def _make_stack(aws: Aws, plan: Plan) -> Stack:
    """Create a run's stack, all but its machine."""
    cloudformation, name = aws.client("cloudformation"), aws_lib.PREFIX + plan.name
    say(f"making stack {name} ...")
    # There is one where this call, its answer lost, or another beside it made it.
    with contextlib.suppress(cloudformation.exceptions.AlreadyExistsException):
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
            Parameters=_given(plan.parameters | {"Machines": "0"}),
            Capabilities=["CAPABILITY_IAM"],
            OnFailure="DELETE",
        )
    stack = aws_lib.find_stack(aws, plan.name)
    if stack is None:
        raise LaunchError(f"stack {name} was made and is gone again; try again")
    if plan.parameters["Notify"]:
        say(f"AWS mails {plan.parameters['Notify']} to confirm the address; else none follows")
    return aws_lib.wait(aws, stack.id)


def _upload(data: Data, where: Path, target: Folder) -> None:
    there = {one.name: one.bytes for one in target.objects()}
    missing = [name for name, size in data.files.items() if there.get(name) != size]
    total, sent, begun = sum(data.files[name] for name in missing), 0, time.monotonic()
    for number, name in enumerate(missing, 1):
        target.upload(name, where / name)
        sent += data.files[name]
        rate = sent / max(time.monotonic() - begun, 1e-3)
        left = f"{rate / 1e6:.1f} MB/s, {(total - sent) / rate:.0f} s left"
        say(f"data {number}/{len(missing)}: {name}, {left}")
    say(f"data is in {target}: {data.bytes / 1e6:.1f} MB, of which {total / 1e6:.1f} MB were new")


def resume(aws: Aws, stack: Stack, asked: argparse.Namespace) -> None:
    """Start another machine for a run that has none; it resumes from what is saved.

    Raises:
      LaunchError: if it cannot be started; the message says why.
    """
    before = stack.parameters
    asked.os = next(key for key, name in _ROOT_DEVICE.items() if name == before["RootDevice"])
    asked.spot = before["Spot"] == "true" if asked.spot is None else asked.spot
    same = [before[key] for key in ("InstanceType", "LikeType1", "LikeType2") if before[key]]
    machines, wanted = _machine_parameters(aws, asked, same, before["Command"])
    _start(aws, stack, wanted, machines[0], asked.max_hours)


def _start(
    aws: Aws, stack: Stack, changes: dict[str, str], machine: Machine, max_hours: float
) -> None:
    """Start a run's machine and wait until it is set up; if it is not, there is none any more."""
    if stack.is_started:  # CloudFormation waits for a machine only where it starts one
        _update(aws, stack, {"Machines": "0"})
    folder = aws.run_folder(stack.run)
    before = folder.read_json("status.json")
    status = {"state": "starting", "machine_s": before.get("machine_s", 0)}
    folder.put("status.json", json.dumps(status).encode())
    price = offers.price(machine, changes["Spot"] == "true", int(stack.parameters["DiskGb"]))
    folder.put("price.json", json.dumps(price).encode())
    say("starting the machine; this takes some minutes. Ctrl-C ends this command, not the run.")
    _update(aws, stack, changes | {"Machines": "1", "Deadline": _deadline(max_hours)})
    say("the machine is set up")


def _update(aws: Aws, stack: Stack, changes: dict[str, str]) -> None:
    """Change parameters of a stack and wait until AWS has done it."""
    cloudformation = aws.client("cloudformation")
    kept = [key for key in stack.parameters if key not in changes]
    same = [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
    try:
        cloudformation.update_stack(
            StackName=stack.name,
            UsePreviousTemplate=True,
            Parameters=[*_given(changes), *same],
            Capabilities=["CAPABILITY_IAM"],
        )
    except cloudformation.exceptions.ClientError as error:
        # The same request before it, whose answer was lost, did it or is still at it.
        if not re.search("No updates are to be performed|_IN_PROGRESS", str(error)):
            raise
    done = aws_lib.wait(aws, stack.id)
    if done.parameters["Machines"] != changes["Machines"]:
        raise LaunchError(f"another call changed {stack.name} at the same time; try again")


def _given(parameters: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
