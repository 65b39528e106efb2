"""95 % confidence intervals of an accuracy and of a change of accuracy.

They cover the choice of held-out images only, never that of the seed.
"""

from math import sqrt

Z95 = 1.959964  # two-sided 95 % quantile of the standard normal distribution


def wilson_interval(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); counts may be effective
    ones, with a fraction."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(
            f"expected 0 <= successes <= n and n >= 1, found {successes} of {n}; "
            "pass counts, not shares"
        )
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def unpaired_difference_interval(
    before: int, n_before: int, after: int, n_after: int
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of `after/n_after - before/n_before`.

    Newcombe 1998, method 10. On the same images it ignores that easy images are
    easy both times, so it is usually wider than the paired interval.
    """
    share_before, share_after = before / n_before, after / n_after
    low_before, high_before = wilson_interval(before, n_before)
    low_after, high_after = wilson_interval(after, n_after)
    change = share_after - share_before
    down = sqrt((share_after - low_after) ** 2 + (high_before - share_before) ** 2)
    up = sqrt((high_after - share_after) ** 2 + (share_before - low_before) ** 2)
    return change - down, change + up


def paired_difference_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Bonett and Price's interval of `(gained - lost) / n` (2012).

    `gained` images were wrong before and right after, `lost` the reverse, of `n`.
    One is added to both counts (and two to `n`), which keeps its coverage when
    few images changed.
    """
    if n < 1 or gained < 0 or lost < 0 or gained + lost > n:
        raise ValueError(
            f"expected gained + lost <= n and n >= 1, found {gained} + {lost} of {n}; "
            "pass counts of the same images before and after"
        )
    share_gained, share_lost = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    change = share_gained - share_lost
    half = Z95 * sqrt((share_gained + share_lost - change**2) / (n + 2))
    return max(-1.0, change - half), min(1.0, change + half)
