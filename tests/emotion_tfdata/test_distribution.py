"""The same stream where TensorFlow, not the caller, iterates: a data service, a strategy."""

from __future__ import annotations

import subprocess
import sys

import pytest
import served
import tensorflow as tf

from emotion_tfdata import Augment, testing

_WORKER = """
import sys
import tensorflow as tf
service = tf.data.experimental.service
config = service.WorkerConfig(dispatcher_address=sys.argv[1], heartbeat_interval_ms=100)
service.WorkerServer(config).join()
"""


def _stream(data_dir, **options):
    return served.make(data_dir, "train", batch_size=8, augment=Augment(), **options)


@pytest.fixture(scope="module")
def expected(fake_data_dir):
    return list(_stream(fake_data_dir))


def test_a_worker_process_of_the_data_service_serves_the_same_stream(fake_data_dir, expected):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, address])
    try:
        given = _stream(fake_data_dir).apply(
            service.distribute(service.ShardingPolicy.OFF, dispatcher.target)
        )
        testing.assert_same_stream(list(given), expected)
    finally:
        worker.kill()
        worker.wait()


def test_a_strategy_is_given_the_same_stream(fake_data_dir, expected):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    def stream(context):
        share = (context.input_pipeline_id, context.num_input_pipelines)
        return _stream(fake_data_dir, shard=share)

    given = strategy.distribute_datasets_from_function(stream)
    testing.assert_same_stream(list(given), expected)
