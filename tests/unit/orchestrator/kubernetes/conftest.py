"""A run, and the cluster that it is placed in."""

from pathlib import Path

import pytest

from services.orchestrator.launch.kubernetes.objects import Cluster
from services.orchestrator.launch.kubernetes.pods.template import Place
from services.orchestrator.launch.kubernetes.settings import Templates
from services.orchestrator.launch.launcher import RunTarget
from tests.support.cluster.templates import URL, make_templates


@pytest.fixture
def templates() -> Templates:
    return make_templates()


@pytest.fixture
def run() -> RunTarget:
    return RunTarget("toy-20260101-120000-ab12", URL, None, Path("/srv/dapo/runs/toy"), term=7, epoch=8)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("lab")


@pytest.fixture
def place() -> Place:
    return Place("runs/toy", URL)
