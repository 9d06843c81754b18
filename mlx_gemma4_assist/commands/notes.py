"""What other threads have to say while a person types: kept until the prompt lets it be shown."""

import logging
from queue import Empty, SimpleQueue

PACKAGE = __name__.partition(".")[0]


class Notes(logging.Handler):
    """Lines, in the order in which they came; those that the package logs are among them once it is installed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: SimpleQueue[str] = SimpleQueue()

    def add(self, line: str) -> None:
        """A line. For any thread."""
        self._lines.put(line)

    def take(self) -> list[str]:
        """All lines since the last call."""
        found = []
        while True:
            try:
                found.append(self._lines.get_nowait())
            except Empty:
                return found

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the log."""
        self.add(record.getMessage())

    def install(self) -> None:
        """Take what the package logs."""
        logger = logging.getLogger(PACKAGE)
        logger.addHandler(self)
        logger.propagate = False
