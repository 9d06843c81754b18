"""Settings of other programs: shown before they are changed, kept beside, and changed whole or not at all."""

import difflib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..errors import InputError
from ..files import read_text, replacing, why_not_written


@dataclass(frozen=True)
class Change:
    """A change of a settings file that has not been made.

    Attributes:
        file: which.
        before, after: its text; None before where there is no such file.
    """

    file: Path
    before: str | None
    after: str

    @classmethod
    def of(cls, file: Path, edit: Callable[[str], str]) -> "Change":
        """What an edit would do to a file.

        Raises:
            InputError: it cannot be read, or the edit refuses it.
        """
        before = read_text(file) if file.exists() else None
        try:
            return cls(file, before, edit(before or ""))
        except InputError as error:
            raise InputError(f"{file} is left as it is: {error}; paste the lines yourself") from None

    def __bool__(self) -> bool:
        return self.before != self.after

    @property
    def difference(self) -> str:
        """As a unified diff."""
        old, new = (self.before or "").splitlines(), self.after.splitlines()
        return "\n".join(difflib.unified_diff(old, new, str(self.file), str(self.file), lineterm=""))

    def make(self) -> Path | None:
        """Write it.

        Returns:
            Where the text before is kept; None if there was none.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            backup = None if self.before is None else self._keep()
            with replacing(self.file) as file:
                file.write(self.after.encode())
            if backup is not None:
                shutil.copymode(backup, self.file)
        except OSError as error:
            raise InputError(f"cannot write {self.file}: {why_not_written(error)}") from None
        return backup

    def _keep(self) -> Path:
        """A copy beside the file, under a name that is free."""
        stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
        names = (f"{self.file.name}.before-{stamp}{again}" for again in ("", *(f"-{i}" for i in range(2, 1000))))
        backup = next(path for name in names if not (path := self.file.with_name(name)).exists())
        shutil.copy2(self.file, backup)
        return backup
