"""What the instance does from start to end, against S3 and a metadata service over HTTP."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from fake_aws import DROP, Answer
from waiting import wait_until

from launch import run as runs
from launch.aws import results, stop
from launch.aws.session import connect
from launch.instance import agent, mirror, progress, watch
from launch.instance.metadata import Metadata

FOLD_FILES = ("checkpoint.npz", "report.json")


def test_it_fetches_trains_uploads_and_ends_the_instance(instance, recorders, data_dir, metadata):
    instance.deploy("--epochs=4")
    assert instance.run() == 0
    assert recorders.calls == ["shutdown -h now"]
    status = instance.status
    assert (status["state"], status["exit_status"]) == ("finished", 0)
    assert (status["epoch"], status["epochs"]) == (4, 4)
    assert status["instance_id"] == metadata.pages["meta-data/instance-id"]
    assert status["log_bytes"] == len(instance.folder.read("log/attempt-1.log"))
    for path in data_dir.iterdir():
        assert (instance.root / "data" / path.name).read_bytes() == path.read_bytes()
    uploaded = {f.name for f in instance.folder.folder("model").objects()}
    assert uploaded == {
        *("checkpoint.npz", "history.json", "report.json", "settings.json", "tensorboard/events")
    }


def test_it_uploads_while_it_trains(instance, tmp_path):
    instance.deploy(f"--until={tmp_path / 'looked'}")
    seen = []

    def meanwhile():
        model = instance.folder.folder("model")
        wait_until(lambda: model.find("checkpoint.npz"), "a checkpoint")
        # The status is sent after the files.
        wait_until(
            lambda: instance.status["state"] != runs.FETCHING, "the status that goes with it"
        )
        seen.append((instance.status["state"], model.find("report.json")))
        (tmp_path / "looked").touch()

    instance.run(meanwhile)
    assert seen == [("training", None)]


def test_a_failed_training_is_told_with_its_log(instance, recorders):
    instance.deploy("--fail_at=1")
    instance.run()
    assert recorders.calls == ["shutdown -h now"]
    assert (instance.status["state"], instance.status["exit_status"]) == ("failed", 1)
    assert instance.status["message"] == "train.py ended with status 1"
    assert b"train.py: the loss is nan" in instance.folder.read("log/attempt-1.log")


@pytest.mark.parametrize(
    ("fails", "message", "exit_status"),
    [
        ("return 1", "installing ended with status 1", 1),
        ("kill -KILL $$", "installing was ended by SIGKILL", 137),
    ],
)
def test_a_failed_installation_is_told_with_its_log(
    instance, cloud, recorders, quick_project, fails, message, exit_status
):
    instance.deploy()
    (quick_project / "launch" / "venv.sh").write_text(f"make_venv() {{ echo no wheel; {fails}; }}")
    instance.run()
    assert recorders.calls == ["shutdown -h now"]
    assert instance.status["message"] == message
    assert b"no wheel" in instance.folder.read("log/attempt-1.log")
    assert cloud.run("monitor", instance.name, "--follow").status == exit_status


def test_damaged_data_is_not_trained_on(instance, cloud, recorders):
    instance.deploy()
    run = cloud.load(instance.name)
    data = cloud.root.folder(runs.data_key(run))
    shard = data.objects()[0].name
    data.put(shard, b"x" * 50_000)
    instance.run()
    assert recorders.calls == ["shutdown -h now"]
    assert instance.status["message"] == "fetching data ended with status 1"
    assert f"{shard}: SHA-256 is" in instance.log


def test_a_spot_notice_brings_the_checkpoint_up_at_once(instance, recorders, metadata):
    instance.deploy("--epochs=1000", flags=["--spot", "--price=1"])
    took = []

    def meanwhile():
        wait_until(lambda: "epoch 3" in instance.log, "three epochs")
        metadata.forget_tokens()
        started = time.monotonic()
        metadata.take_away()
        wait_until(lambda: instance.status.get("state") == "interrupted", "the last save")
        took.append(time.monotonic() - started)
        os.kill(os.getpid(), signal.SIGTERM)  # the machine goes down

    assert instance.run(meanwhile) == 0
    assert took[0] < 60
    assert recorders.calls == [], "AWS takes it; a shutdown would end it for good"
    at = json.loads((instance.root / "model" / "checkpoint.npz").read_text())
    assert json.loads(instance.folder.read("model/checkpoint.npz")) == at
    assert f"stopped at {at}\n" in instance.folder.read("log/attempt-1.log").decode()

    # Started again by AWS, with its disk: it goes on from there.
    del metadata.pages["meta-data/spot/instance-action"]

    def later():
        wait_until(lambda: f"epoch {at + 2}\n" in instance.log, "two more epochs")
        instance.folder.put(runs.STOP, b"")

    assert instance.run(later) == 0
    assert f"from epoch {at}\n" in instance.log
    assert instance.status["state"] == "stopped"


def test_a_notice_that_comes_to_nothing_is_survived(instance, metadata, monkeypatch, tmp_path):
    monkeypatch.setattr(agent, "_REPRIEVE_S", 0)
    instance.deploy(f"--until={tmp_path / 'over'}", flags=["--spot", "--price=1"])

    def meanwhile():
        wait_until(lambda: "epoch 3" in instance.log, "three epochs")
        metadata.take_away(after_s=0)
        wait_until(lambda: instance.status.get("state") == "interrupted", "the notice")
        del metadata.pages["meta-data/spot/instance-action"]
        wait_until(lambda: instance.log.count("from epoch") == 2, "it trains on")
        (tmp_path / "over").touch()

    instance.run(meanwhile)
    assert "not taken away after all" in instance.log
    assert instance.status["state"] == "finished"


def test_at_its_end_a_spot_instance_ends_its_request(instance, cloud, recorders):
    instance.deploy(flags=["--spot", "--price=1"])
    requested = cloud.make_spot_request(instance.name)
    instance.run()
    (cancelled,) = cloud.proxy.of("ec2", "CancelSpotInstanceRequests")
    assert cancelled.is_from_instance
    assert cancelled.form["SpotInstanceRequestId.1"] == requested
    assert cloud.spot_requests() == [], "its role let it"
    assert recorders.calls == ["shutdown -h now"]


def test_a_spot_request_that_is_not_known_at_the_end_is_told(instance, cloud, recorders):
    instance.deploy(flags=["--spot", "--price=1"])
    requested = cloud.make_spot_request(instance.name)
    launch = json.loads(instance.folder.read(runs.LAUNCH))
    instance.folder.put(runs.LAUNCH, json.dumps({**launch, "attempt": 0}).encode())
    instance.run()
    assert cloud.spot_requests() == [requested]
    told = "its spot request was not ended, the time limit will, `stop` now (launch.json does not"
    assert told in instance.log
    assert told in instance.status["message"]
    assert instance.status["state"] == "finished"
    assert recorders.calls == ["shutdown -h now"]


def test_it_ends_before_its_time_limit_with_everything_saved(instance, recorders, monkeypatch):
    instance.deploy("--epochs=10000", flags=["--max_hours=1"])

    def meanwhile():
        wait_until(lambda: "epoch 3" in instance.log, "three epochs")
        monkeypatch.setattr(watch, "DEADLINE_MARGIN_S", 3600)  # an hour passes

    instance.run(meanwhile)
    assert recorders.calls == ["shutdown -h now"]
    assert instance.status["state"] == "out of time"
    at = json.loads((instance.root / "model" / "checkpoint.npz").read_text())
    assert json.loads(instance.folder.read("model/checkpoint.npz")) == at


def test_when_its_machine_goes_down_it_saves_and_leaves(instance, recorders):
    instance.deploy("--epochs=1000")

    def meanwhile():
        wait_until(lambda: "epoch 3" in instance.log, "three epochs")
        os.kill(os.getpid(), signal.SIGTERM)

    assert instance.run(meanwhile) == 0
    assert recorders.calls == []
    assert instance.status["state"] == "interrupted"
    assert instance.folder.find("model/checkpoint.npz")


def test_an_s3_that_fails_for_a_while_costs_nothing(instance, cloud, recorders, tmp_path):
    instance.deploy(f"--until={tmp_path / 'over'}")
    broken = threading.Event()
    refused = []

    def fails(request):
        if broken.is_set() and request.is_from_instance and request.action == "PUT":
            refused.append(request.path)
            return (
                DROP if len(refused) % 2 else Answer(503, b"<Error><Code>SlowDown</Code></Error>")
            )
        return None

    def meanwhile():
        cloud.proxy.rules.insert(0, fails)
        wait_until(lambda: "epoch 2" in instance.log, "two epochs")
        broken.set()
        wait_until(lambda: "S3 did not take it" in instance.log, "a save that failed")
        wait_until(lambda: len(refused) > 5, "refusals")
        broken.clear()
        (tmp_path / "over").touch()

    instance.run(meanwhile)
    assert instance.status["state"] == "finished"
    for path in (instance.root / "model").rglob("*"):
        if path.is_file():
            name = path.relative_to(instance.root / "model").as_posix()
            assert instance.folder.read(f"model/{name}") == path.read_bytes()


def test_another_instance_goes_on_from_the_checkpoint(instance, cloud, tmp_path):
    instance.deploy(f"--until={tmp_path / 'stopped'}")

    def meanwhile():
        wait_until(lambda: "epoch 3" in instance.log, "three epochs")
        wait_until(lambda: instance.status.get("state") == "training", "the status of it")
        stop.end(aws, cloud.root, instance.name, said.append)

    aws, said = connect(), []
    instance.run(meanwhile)
    assert "stopped; everything is saved" in said
    assert cloud.instances() == []
    at = json.loads(instance.folder.read("model/checkpoint.npz"))
    spent = instance.status["cost_usd"]
    resumed = cloud.run("resume", instance.name, "--yes", "--instance_type=c6i.4xlarge")
    assert resumed.status == 0, resumed.err
    (new,) = cloud.instances()
    assert new["InstanceType"] == "c6i.4xlarge"
    (tmp_path / "stopped").touch()

    instance.root = tmp_path / "another"
    instance.root.mkdir()
    instance.run()
    assert f"from epoch {at}\n" in instance.log
    assert (instance.status["state"], instance.status["attempt"]) == ("finished", 2)
    assert instance.status["cost_usd"] >= spent
    assert instance.folder.find("log/attempt-1.log")
    assert cloud.run("stop", instance.name).status == 0
    again = cloud.run("resume", instance.name, "--yes")
    assert again.status == 1
    assert "is finished" in again.err


def test_a_pull_that_broke_off_is_gone_on_with_until_all_is_here(instance, cloud, tmp_path):
    """Or folds that are missing here would be trained again, over those in S3."""
    instance.deploy("--epochs=2")
    saved = {f"fold-{fold}/{name}": f"{fold} {name}" for fold in (0, 1) for name in FOLD_FILES}
    for name, text in saved.items():
        instance.folder.put(f"model/{name}", text.encode())

    def breaks_off(request):
        is_last = request.is_from_instance and "model/fold-1/report.json" in request.path
        return Answer(403, b"<Error><Code>AccessDenied</Code></Error>") if is_last else None

    cloud.proxy.rules.insert(0, breaks_off)
    instance.run()
    assert instance.status["message"] == "fetching data ended with status 1"
    model = instance.root / "model"
    there = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert there == set(saved) - {"fold-1/report.json"}, "checkpoints are among what came"
    cloud.proxy.rules.remove(breaks_off)
    instance.folder.delete([runs.STATUS])  # as of a machine that went down instead
    instance.run()
    assert instance.status["state"] == "finished"
    for name, text in saved.items():
        assert (model / name).read_text() == text
        assert instance.folder.read(f"model/{name}") == text.encode()


def test_what_was_trained_here_is_not_replaced_after_a_restart(instance, recorders):
    instance.deploy("--epochs=3")
    instance.run()
    checkpoint = instance.root / "model" / "checkpoint.npz"
    instance.folder.put("model/checkpoint.npz", b"1")  # as if the last save had not got up
    instance.folder.delete([runs.STATUS])
    instance.run()
    assert instance.log.count("from epoch 3\n") == 1
    assert json.loads(checkpoint.read_text()) == 3


def test_an_attempt_that_has_ended_ends_its_instance_again(instance, recorders):
    instance.deploy()
    instance.run()
    trained = instance.log.count("from epoch")
    instance.run()
    assert instance.log.count("from epoch") == trained
    assert recorders.calls == ["shutdown -h now"] * 2


def test_metadata_needs_a_token_and_renews_it(metadata):
    client = Metadata()
    assert client.instance_id() == "i-0123456789abcdef0"
    assert client.interruption_s() is None
    metadata.forget_tokens()
    metadata.take_away(after_s=120)
    assert client.interruption_s() == pytest.approx(time.time() + 120, abs=5)
    assert metadata.refused == 1, "the forgotten token alone"


def test_metadata_that_is_not_there_is_an_error_of_the_system(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert Metadata().instance_id() == ""
    with pytest.raises(OSError, match="refused"):
        Metadata().interruption_s()


def test_the_report_is_uploaded_last_and_only_changes_are_sent(cloud, tmp_path):
    cloud.client("s3").create_bucket(Bucket=cloud.root.bucket)
    names = ("report.json", "best.keras", "fold-0/report.json", "a.tmp", ".lock", "b.tmp/c")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    kept = mirror.Mirror(tmp_path, cloud.root)
    assert kept.push() == 3
    sent = [r.path.partition(cloud.root.bucket + "/")[2] for r in cloud.proxy.of("s3", "PUT")[1:]]
    assert sent == ["best.keras", "fold-0/report.json", "report.json"]
    assert kept.push() == 0
    (tmp_path / "best.keras").write_text("newer")
    assert kept.push() == 1


def test_progress_of_several_folds(tmp_path):
    for fold, epochs in ((0, 3), (1, 1)):
        folder = tmp_path / f"fold-{fold}"
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps({"epochs": 3}))
        history = [{"epoch": e + 1, "train": {"loss": 1.0}} for e in range(epochs)]
        (folder / "history.json").write_text(json.dumps(history))
        os.utime(folder / "history.json", (fold, fold))
    seen = progress.progress(tmp_path)
    assert (seen["fold"], seen["epoch"], seen["epochs"]) == ("1", 1, 3)
    assert progress.progress(tmp_path / "nothing") == {}
    assert not progress.is_finished(tmp_path)


def test_fetching_is_gone_on_with_and_verified(instance, cloud, tmp_path):
    instance.deploy("--epochs=2")
    instance.run()
    out_dir, said = tmp_path / "out", list[str]()
    assert results.fetch(cloud.root, instance.name, out_dir, said.append) == 8
    assert results.fetch(cloud.root, instance.name, out_dir, said.append) == 0
    (out_dir / "history.json").write_text("damaged")
    assert results.fetch(cloud.root, instance.name, out_dir, said.append) == 1
    assert (out_dir / "report.json").read_bytes() == instance.folder.read("model/report.json")
