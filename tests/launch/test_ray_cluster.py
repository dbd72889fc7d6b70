"""The file of a Ray cluster, by Ray's own validation."""

from __future__ import annotations

import pytest
import yaml

util = pytest.importorskip("ray.autoscaler._private.util", reason="the extra [ray] is missing")


def test_ray_takes_the_cluster_file(project_dir):
    given = yaml.safe_load((project_dir / "launch" / "ray.yaml").read_text())
    config = util.prepare_config(given)
    util.validate_config(config)  # raises
    workers = config["available_node_types"]["worker"]
    assert workers["max_workers"] == config["max_workers"]
    assert config["file_mounts"] == {"/home/ubuntu/emotion_tfdata": "."}
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        util.validate_config(config | {"spelled_wrong": 1})
