import asyncio

import numpy as np
import pytest

from server.calls import Pending
from server.policy import Waiting
from server.registry import ServedModel
from server.scheduler import Job
from tests.masters import tiny_master
from tests.server.ladders import ladder_of


@pytest.mark.parametrize(("before", "meanwhile"), [(True, False), (False, True), (False, False)])
def test_a_job_is_gone_if_its_caller_left_before_it_is_attached_or_meanwhile(before: bool, meanwhile: bool) -> None:
    async def attach() -> None:
        pending: Pending[None] = Pending(expires_s=0.0)
        pending.gone = before
        pending.attach(job)

    model = ServedModel(tiny_master(), ladder_of())
    job = Job(model, np.zeros((1, 3, 2, 2), np.int8), Waiting(0.0, 1), 0.0, lambda _: None, gone=meanwhile)
    asyncio.run(attach())
    assert job.gone == (before or meanwhile)
