"""Fixtures of the tests in this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before moto is imported: it has thousands, and reads them for every test.
os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).parent / "amis.json")
pytest.register_assert_rewrite("fake_aws", "machine_double", "quick_run", "waiting", "whole_run")

from fake_aws import aws_proxy, cloud, data_dir, deployed, project  # noqa: E402
from machine_double import metadata, recorders  # noqa: E402
from quick_run import instance, quick_looks, quick_project  # noqa: E402
from whole_run import machine, machines, whole_project  # noqa: E402

__all__ = [
    "aws_proxy",
    "cloud",
    "data_dir",
    "deployed",
    "instance",
    "machine",
    "machines",
    "metadata",
    "project",
    "quick_looks",
    "quick_project",
    "recorders",
    "whole_project",
]
