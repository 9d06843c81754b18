"""A backend by the name of its model, for Python apps and plugins."""

from collections.abc import Callable

from ..checkpoints.sampling import sampling_of
from ..engine.pair import MATCHING, Checkpoint
from ..errors import InputError
from .endpoint import Backend
from .service import Service, Settings

GRACE = 2.0  # seconds that answers under way have to end


def open_backend(model: str, assistant_model: str = MATCHING) -> tuple[Backend, Callable[[], None]]:
    """A backend with its model loaded, and what ends it.

    Args:
        model: a folder, a repo on the Hub, or ``tiny`` for the pair that comes with the package.
        assistant_model: the same of an assistant; "matching" looks for the one that belongs to the target, "none" goes
            without.

    Raises:
        InputError: one sentence on what is not there, is damaged, or does not belong together.
    """
    checkpoint = Checkpoint.open(model, assistant_model)
    service = Service(checkpoint, Settings(options=sampling_of(checkpoint.folder)))
    try:
        service.load()
    except InputError:
        service.close()
        raise
    return service, lambda: service.close(GRACE)
