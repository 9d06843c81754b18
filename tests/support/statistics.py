"""Whether counts are those of a distribution; apart from the package's own test, so that the two check each other."""

from math import erfc

import numpy as np

CHI_SQUARE_P = 1e-4  # what a test may come upon by chance


def chi_square_p(counts: np.ndarray, expected: np.ndarray) -> float:
    """The p-value of counts under expected frequencies, rare cells put together (Wilson-Hilferty for the tail)."""
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom))
    return erfc(z / np.sqrt(2)) / 2
