"""What all tests share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _nothing_kept_of_other_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rates and ladders that tests measure lie in a folder of this run, for the processes that it starts too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
