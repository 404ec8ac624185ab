"""Whether to try again, and after how long: decided here once, waited for by the clients."""

from collections.abc import Callable

from bitgear_client.errors import BitgearClientError, ConnectionFailed, ServerProblem

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
_RETRIED_STATUSES = (429, 503)


class Retries:
    """The retries of one call: exponential backoff with full jitter, at least as long as the server's Retry-After.

    ``budget_s`` counts seconds from the construction; no attempt starts after it, 0 means none at all. ``clock``
    returns monotonic seconds, ``random`` a number in 0..1.
    """

    def __init__(self, budget_s: float, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._deadline_s = clock() + budget_s
        self._backoff_s = FIRST_BACKOFF_S

    def wait_s(self, error: BitgearClientError) -> float | None:
        """Return the seconds to wait before trying again, or ``None`` if ``error`` is final.

        Worth another try are a failed connection and the statuses 429 and 503, while the budget lasts. Where the
        server asks for a longer wait than what is left of it, the error is final at once.
        """
        refused_for_now = isinstance(error, ServerProblem) and error.status in _RETRIED_STATUSES
        if not (refused_for_now or isinstance(error, ConnectionFailed)):
            return None
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, ServerProblem) else 0.0
        left_s = self._deadline_s - self._clock()
        if left_s <= asked_s:
            return None
        jitter_s = self._random() * self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        return min(asked_s + jitter_s, left_s)
