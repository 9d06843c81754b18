"""The server as a launchd agent: begun at login, begun anew where it ends by a fault."""

import os
import plistlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line
from ..files import replacing, why_not_written

LABEL = "mlx-gemma4-assist.serve"
HANDED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "MLX_GEMMA4_ASSIST_CACHE", "PATH", "PYTHONPATH")
"""Variables of the environment that the agent gets as they are when it is installed."""
PAUSE = 10  # seconds between two beginnings, launchd's own default
PATIENCE = (0.0, 1.0, 3.0)  # seconds before each try, since one that was told to end may not have ended yet

Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Agent:
    """An agent of this user.

    Attributes:
        home: the user's folder.
        command: words of the command line.
        environment: variables that it gets, a key among them rather than in the command line, which everybody may read.
    """

    home: Path
    command: Sequence[str]
    environment: Mapping[str, str]

    @property
    def file(self) -> Path:
        """Where launchd looks for it."""
        return self.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    @property
    def log(self) -> Path:
        """Where its lines go."""
        return self.home / "Library" / "Logs" / f"{LABEL}.log"

    @property
    def plist(self) -> bytes:
        """What launchd reads."""
        content: dict[str, Any] = {
            "Label": LABEL,
            "ProgramArguments": list(self.command),
            "EnvironmentVariables": dict(self.environment),
            "WorkingDirectory": str(self.home),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": PAUSE,
            "ProcessType": "Interactive",  # else the system slows it down beside what is in the foreground
            "StandardOutPath": str(self.log),
            "StandardErrorPath": str(self.log),
        }
        return plistlib.dumps(content)


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment, what an agent needs of it."""
    return {name: environment[name] for name in HANDED_ON if environment.get(name)}


def on_a_mac() -> bool:
    return sys.platform == "darwin"


def launchctl(arguments: Sequence[str]) -> int:
    """Run launchctl.

    Returns:
        Its exit status.

    Raises:
        InputError: it cannot be run.
    """
    try:
        return subprocess.run(["launchctl", *arguments], capture_output=True, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"launchctl does not work here: {first_line(error)}") from None


def install(agent: Agent, run: Run = launchctl, sleep: Callable[[float], None] = time.sleep) -> None:
    """Write the agent's file and begin it; one that is there already is replaced.

    Raises:
        InputError: the file cannot be written, or launchd refuses it.
    """
    try:
        for folder in (agent.file.parent, agent.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with replacing(agent.file) as file:
            file.write(agent.plist)
    except OSError as error:
        raise InputError(f"cannot write {agent.file}: {why_not_written(error)}") from None
    run(("bootout", f"{_domain()}/{LABEL}"))  # fails where none runs
    for seconds in PATIENCE:
        sleep(seconds)
        if not (status := run(("bootstrap", _domain(), str(agent.file)))):
            return
    raise InputError(f"launchctl bootstrap refuses {agent.file} with status {status}")


def remove(agent: Agent, run: Run = launchctl) -> bool:
    """End the agent and delete its file.

    Returns:
        Whether there was one.

    Raises:
        InputError: the file cannot be deleted.
    """
    run(("bootout", f"{_domain()}/{LABEL}"))
    try:
        agent.file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot delete {agent.file}: {error.strerror}") from None
    return True


def _domain() -> str:
    return f"gui/{os.getuid()}"
