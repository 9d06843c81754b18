"""Every protocol that is served."""

from collections.abc import Sequence

from .endpoint import Endpoint, Lookup

ENDPOINTS: Sequence[Endpoint] = ()
LOOKUPS: Sequence[Lookup] = ()
