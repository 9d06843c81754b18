"""What all routes of the server share."""

from dataclasses import dataclass, field

from .endpoint import Backend
from .log import UnknownFields
from .metrics import Metrics
from .running import Running
from .security import Guard
from .settings import ServerSettings


@dataclass
class Site:
    """A server's parts.

    Attributes:
        backend: that answers.
        settings: of HTTP.
        guard: of its doors.
        metrics: that are counted.
        running: requests.
        unknown: fields that were noted.
    """

    backend: Backend
    settings: ServerSettings
    guard: Guard = field(init=False)
    metrics: Metrics = field(init=False)
    running: Running = field(default_factory=Running)
    unknown: UnknownFields = field(default_factory=UnknownFields)

    def __post_init__(self) -> None:
        self.guard = Guard(self.settings)
        self.metrics = Metrics(self.backend)
