"""Fixtures of the tests in this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before moto is imported: it has thousands, and reads them for every test.
os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).parent / "amis.json")
pytest.register_assert_rewrite("fake_aws", "machine_double", "waiting")

from fake_aws import aws_proxy, cloud, data_dir, deployed, project  # noqa: E402
from machine_double import commands, machine, metadata  # noqa: E402

__all__ = [
    "aws_proxy",
    "cloud",
    "commands",
    "data_dir",
    "deployed",
    "machine",
    "metadata",
    "project",
]


def pytest_configure(config: pytest.Config) -> None:
    """Ignore moto's warnings of resources that its CloudFormation leaves out."""
    config.addinivalue_line("filterwarnings", "ignore:Tried to parse AWS")
