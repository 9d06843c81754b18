"""How close to the reference's figures is close enough."""

import mlx.core as mx
import numpy as np

TOLERANCE = 1e-4


def assert_close(found: mx.array, expected: mx.array) -> None:
    """Equal to ``TOLERANCE``, absolutely, and of the same shape and type."""
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=TOLERANCE, strict=True)
