from collections.abc import Iterator

import pytest

from tests.serving import Running, running
from tests.task_masters import areas_master, boxes_master


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("attacks"), body_timeout_s=1, max_body_bytes=200_000, max_pixels=1_000_000
    ) as server:
        yield server


@pytest.fixture(scope="module")
def every_task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a model for each task: ``tiny``, ``boxes`` and ``areas``."""
    with running(tmp_path_factory.mktemp("tasks"), further=(boxes_master(), areas_master())) as server:
        yield server
