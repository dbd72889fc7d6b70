"""What a command is going to do: looked up, checked and shown before anything is made."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch import run as runs
from launch.aws import bucket, dataset, instances, machine, prices, resources, source
from launch.aws.deploy import Plan
from launch.aws.session import Aws, LaunchError
from launch.s3 import Folder

# The system and the environment, with room for checkpoints and events.
_VOLUME_GB = 24
_READ_BATCH_SIZE = """
import sys
from absl import flags

values = flags.FlagValues()
flags.DEFINE_integer("batch_size", int(sys.argv[1]), "", flag_values=values)
values(sys.argv[1:], known_only=True)
print(values.batch_size)
"""


def new(
    aws: Aws,
    root: Folder,
    project_dir: Path,
    *,
    flagfile: str,
    train_args: Sequence[str],
    data_dir: str,
    name: str,
    instance_type: str,
    system: str,
    image_id: str,
    spot: bool,
    max_hours: float,
    price: float | None,
    subnet_id: str,
    ssh_cidr: str,
    key_name: str,
    num_instances: int = 1,
) -> Plan:
    """The plan of a new run.

    Args:
      aws: where.
      root: where all runs are.
      project_dir: the project's top folder.
      flagfile: of the training, within the project.
      train_args: further arguments of train.py.
      data_dir: the data set, local or `s3://`.
      name: of the run; made from what it trains if empty, so that the same call means the same run.
      instance_type, system, image_id, spot, max_hours, price, subnet_id, ssh_cidr, key_name,
        num_instances: see the flags.

    Raises:
      LaunchError: if something is not as it must be; nothing is made.
    """
    packed = source.pack(project_dir)
    arguments = _train_args(project_dir, packed, flagfile, train_args, num_instances)
    if bool(ssh_cidr) != bool(key_name):
        raise LaunchError("--ssh_cidr and --key_name go together: an open port needs a key")
    if ssh_cidr:
        resources.check_ssh_cidr(ssh_cidr)
    data = dataset.find(aws, data_dir)
    kind = machine.machine(aws, instance_type)
    volume_gb = _VOLUME_GB + -(-2 * data.bytes // 10**9)
    cost = prices.of(aws, instance_type, kind.vcpus, spot=spot, volume_gb=volume_gb, override=price)
    image = machine.image(aws, system, kind.architecture, image_id)
    asked = [packed.sha256, data.sha256, instance_type, system, spot, max_hours, arguments]
    if num_instances > 1:
        asked.append(num_instances)
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    stem = re.sub("[^a-z0-9]+", "-", Path(flagfile).stem.lower()).strip("-")[:20]
    run = runs.Run(
        name=name or f"{stem}-{digest[:8]}",
        train_args=arguments,
        source=packed.sha256,
        data=data.sha256,
        instance_type=instance_type,
        os=system,
        image_id=image.id,
        spot=spot,
        volume_gb=volume_gb,
        max_hours=max_hours,
        usd_per_hour=round(num_instances * cost.usd_per_hour, 6),
        price_source=cost.source,
        subnet_id=subnet_id,
        ssh_cidr=ssh_cidr,
        key_name=key_name,
        attempt=1,
        started_at=int(time.time()),
        num_instances=num_instances,
        data_given=dataset.is_at(data, root.folder(f"data/{data.sha256}")),
    )
    if not runs.valid_name(run.name):
        raise LaunchError(
            f"--name={run.name}: give up to 32 of a-z, 0-9 and -, the first no hyphen"
        )
    subnets = machine.subnets(aws, instance_type, subnet_id)
    new_bucket = bucket.is_to_be_made(aws, root.bucket)
    live = instances.find(aws, run.name)
    if live and (new_bucket or runs.folder(root, run.name).find(runs.RUN) is None):
        raise LaunchError(
            f"{', '.join(one.id for one in live)} belongs to a run {run.name} that is not in "
            f"{root}, but under another --prefix, or removed in part. Choose another --name, or "
            f"end that one: stop {run.name} --delete"
        )
    quota = "its instances run already" if num_instances > 1 else "its instance runs already"
    if len(live) < num_instances:
        quota = machine.check_quota(aws, kind, spot, num_instances - len(live))
    return Plan(run, kind, image, subnets, cost, quota, new_bucket, root, packed, data)


def again(
    aws: Aws,
    root: Folder,
    before: runs.Run,
    *,
    instance_type: str,
    spot: bool | None,
    max_hours: float | None,
    price: float | None,
) -> Plan:
    """The plan of a run's next attempt, on source and data that are in S3.

    Args:
      aws: where.
      root: where all runs are.
      before: the last attempt.
      instance_type: another one; empty for the same.
      spot: whether it is one; None for as before.
      max_hours: for this attempt; None for as before.
      price: of an hour of one instance; None to look it up.

    Raises:
      LaunchError: if something is not as it must be; nothing is made.
    """
    data_folder = root.folder(runs.data_key(before))
    manifest = data_folder.read(dataset.MANIFEST)
    if manifest is None or root.find(runs.source_key(before)) is None:
        raise LaunchError(f"source or data of {before.name} are no longer in {root}; deploy again")
    instance_type = instance_type or before.instance_type
    spot = before.spot if spot is None else spot
    kind = machine.machine(aws, instance_type)
    cost = prices.of(
        aws, instance_type, kind.vcpus, spot=spot, volume_gb=before.volume_gb, override=price
    )
    image = machine.image(aws, before.os, kind.architecture)
    changed = {
        **{"instance_type": instance_type, "spot": spot, "image_id": image.id},
        **{"max_hours": max_hours or before.max_hours, "attempt": before.attempt + 1},
        "usd_per_hour": round(before.num_instances * cost.usd_per_hour, 6),
        "price_source": cost.source,
        **{"started_at": int(time.time())},
    }
    run = runs.Run(**{**before.__dict__, **changed})
    subnets = machine.subnets(aws, instance_type, run.subnet_id)
    quota = machine.check_quota(aws, kind, spot, run.num_instances)
    new_bucket = bucket.is_to_be_made(aws, root.bucket)
    return Plan(run, kind, image, subnets, cost, quota, new_bucket, root, None, None)


def show(plan: Plan, aws: Aws, say: Callable[[str], None]) -> None:
    """Tells a person all of it."""
    run, root = plan.run, plan.root
    market = "spot: interrupted and gone on by itself" if run.spot else "on demand"
    graviton = " (Graviton: trains; mediapipe has no wheel, so it cannot preprocess)"
    each = f", each of {run.num_instances}" if run.num_instances > 1 else ""
    say(f"run        {run.name}, attempt {run.attempt}")
    say(f"trains     train.py {' '.join(run.train_args)}")
    if plan.data:
        what = f" ({plan.data.provenance})" if plan.data.provenance else ""
        size = f"{len(plan.data.shards)} shards, {plan.data.bytes / 1e6:.1f} MB"
        say(f"on         {plan.data.where}: {size}{what}")
    else:
        say(f"on         {root}/{runs.data_key(run)}, from the last checkpoint")
    say(
        f"instance   {_times(run)}{run.instance_type}: {plan.kind.vcpus} vCPUs, "
        f"{plan.kind.memory_gib:g} GiB, {plan.kind.architecture}"
        f"{graviton if plan.kind.architecture == 'arm64' else ''}, {market}"
    )
    say(f"system     {machine.SYSTEMS[run.os]} ({run.image_id}), {run.volume_gb} GB encrypted")
    say(f"quota      {plan.quota}")
    say(
        f"price      ${plan.price.instance_usd:.3f} an hour ({plan.price.source}) + "
        f"${plan.price.extras_usd:.3f} disk and address{each}"
    )
    say(f"time limit {run.max_hours:g} h: {run.most}, before tax and S3 storage")
    say(f"makes      in account {aws.account}, {aws.region}, all but the files tagged:")
    if plan.new_bucket:
        say(f"  bucket   {root.bucket}: private, encrypted")
    say(f"  files    {root}/runs/{run.name}, {root}/source, {root}/data")
    say(f"  role     {resources.role_name(aws, run.name)}: this run in {root}, nothing else")
    say(f"  firewall in: {resources.let_in(run)}; out: ports 80 and 443")
    if run.num_instances == 1:
        say("  instance one, which ends itself; metadata service version 2 only")
    else:
        say(
            f"  instance {run.num_instances}, which end themselves; metadata service version 2 only"
        )
    if run.spot:
        say("  spot     a request for each, which ends with the run or the time limit")
    say(f"removal    python -m launch.ec2 stop {run.name} --delete")


def _times(run: runs.Run) -> str:
    return f"{run.num_instances} x " if run.num_instances > 1 else ""


def _train_args(
    project_dir: Path,
    packed: source.Source,
    flagfile: str,
    more: Sequence[str],
    num_instances: int,
) -> tuple[str, ...]:
    """Arguments of train.py, checked by train.py itself before an instance costs anything."""
    path = (project_dir / flagfile).resolve()
    if not path.is_file():
        path = Path(flagfile).resolve()
    if not path.is_file():
        raise LaunchError(f"--flagfile={flagfile} does not exist in {project_dir}")
    name = path.relative_to(project_dir).as_posix() if path.is_relative_to(project_dir) else ""
    if name not in packed.files:
        raise LaunchError(
            f"--flagfile={flagfile}: git does not track it in {project_dir}, so the instance "
            "would not have it; git add it"
        )
    for argument in more:
        if argument.lstrip("-").partition("=")[0] in ("data_dir", "model_dir", "flagfile"):
            raise LaunchError(f"{argument}: the instance has its own; leave it out after --")
    arguments = (f"--flagfile={name}", *more)
    done = subprocess.run(
        [sys.executable, "train.py", *arguments, "--only_check_args"],
        cwd=project_dir,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LaunchError(f"train.py does not take {' '.join(arguments)}: {' '.join(said[-3:])}")
    size = _batch_size(project_dir, arguments) if num_instances > 1 else 0
    if size % num_instances:
        raise LaunchError(
            f"--num_instances={num_instances}: a batch of {size} cannot be shared equally by "
            "them; choose another --batch_size after --"
        )
    return arguments


def _batch_size(project_dir: Path, arguments: Sequence[str]) -> int:
    """The --batch_size that train.py takes from arguments that it has accepted; 0 if it has none.

    Read as train.py does, by absl in its folder: from nested flag files too, without their
    comments, and the last one counts.
    """
    text = (project_dir / "train.py").read_text(encoding="utf-8")
    default = re.search(r'DEFINE_integer\(\s*"batch_size",\s*([0-9]+)', text)
    done = subprocess.run(
        [sys.executable, "-c", _READ_BATCH_SIZE, default[1] if default else "0", *arguments],
        cwd=project_dir,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)
