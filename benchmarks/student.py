"""Student's t: how far a mean of few differences is from zero before that counts."""

from scipy.special import stdtrit


def clear_of_zero(count: int, comparisons: int = 1) -> float:
    """Return how many standard errors the mean of ``count`` differences, 2 and more, is from zero if it is clear of it.

    Two-sided, at 95 % for all of ``comparisons`` together (Bonferroni), as where the greatest was picked afterwards.
    """
    return float(stdtrit(count - 1, 1 - 0.025 / comparisons))
