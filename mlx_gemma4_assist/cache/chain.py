"""Names of what a text's beginning has left in a cache: hashes of the model and of all tokens that precede.

A text is cut into chunks of 256 positions. Each is named by the name of the chunk before it and its own tokens, so that
equal names mean equal beginnings, of any length, and texts that part have other names from there on.
"""

import hashlib
from array import array
from collections.abc import Sequence

from .. import __version__

CHUNK = 256  # positions
FORMAT_VERSION = 1  # to be raised when what was stored before must not be found any more


def root(fingerprint: str, form: str) -> str:
    """What all chains of a model begin with, in this version of the package.

    Args:
        fingerprint: of the target.
        form: of its keys and values, see ``points.form``.
    """
    about = f"{FORMAT_VERSION} {__version__} {fingerprint} {form}"
    return hashlib.blake2b(about.encode(), digest_size=16).hexdigest()


def link(parent: str, tokens: Sequence[int]) -> str:
    """The name of what follows ``parent``: 32 hexadecimal digits.

    Args:
        parent: the name of all that precedes.
        tokens: ids, and negative keys of 64 bits in the place of soft tokens.
    """
    digest = hashlib.blake2b(parent.encode(), digest_size=16)
    digest.update(array("q", tokens).tobytes())
    return digest.hexdigest()


def chain(first: str, tokens: Sequence[int]) -> list[str]:
    """The root, and the name of each whole chunk of a text."""
    names = [first]
    for end in range(CHUNK, len(tokens) + 1, CHUNK):
        names.append(link(names[-1], tokens[end - CHUNK : end]))
    return names
