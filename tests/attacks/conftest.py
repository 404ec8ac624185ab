from collections.abc import Iterator

import pytest

from tests.serving import Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("attacks"), body_timeout_s=1, max_body_bytes=200_000, max_pixels=1_000_000
    ) as server:
        yield server
