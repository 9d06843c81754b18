"""The clipboard of whoever sits at the terminal."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import TextIO

PATIENCE = 3.0
"""Seconds for a program that may wait for a display which is no longer there."""
LONGEST_SEQUENCE = 74_994
"""Characters of base64 in a sequence, of which xterm takes no more; others cut a longer one off in silence."""

_OSC_52 = "the terminal (OSC 52)"


def copy(
    text: str,
    environ: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
    terminal: TextIO | None = None,
) -> str | None:
    """Put a text on the clipboard. It ends within ``PATIENCE`` seconds for each program that is tried.

    Args:
        text: of any length; halves of surrogate pairs become question marks.
        environ: tells whether there is a display, and where programs are.
        platform: as ``sys.platform``.
        terminal: is asked with the sequence OSC 52 if no program is there; None is standard output.

    Returns:
        What has taken it, for a line that says so; None if nothing could. Whether a terminal lets programs write to
        the clipboard it does not tell.
    """
    content = text.encode("utf-8", "replace")
    for command in _programs(environ, platform):
        program = shutil.which(command[0], path=environ.get("PATH", os.defpath))
        if program is not None and _taken([program, *command[1:]], content, environ):
            return command[0]
    return _OSC_52 if _asked(terminal or sys.stdout, content, environ) else None


def _programs(environ: Mapping[str, str], platform: str) -> Iterator[tuple[str, ...]]:
    """What may reach a clipboard here, the likeliest first."""
    if platform == "darwin":
        yield ("pbcopy",)
    if environ.get("WAYLAND_DISPLAY"):
        yield ("wl-copy",)
    if environ.get("DISPLAY"):
        yield "xclip", "-selection", "clipboard"
        yield "xsel", "--clipboard", "--input"


def _taken(command: list[str], content: bytes, environ: Mapping[str, str]) -> bool:
    """Whether a program has read it. Some leave a process behind, which would hold pipes open: there are none."""
    try:
        done = subprocess.run(
            command,
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environ, "LC_CTYPE": "UTF-8"} if command[0].endswith("pbcopy") else dict(environ),
            timeout=PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _asked(terminal: TextIO, content: bytes, environ: Mapping[str, str]) -> bool:
    """Whether the sequence was sent to a terminal that may understand it."""
    encoded = base64.b64encode(content).decode()
    if not terminal.isatty() or environ.get("TERM") in (None, "", "dumb", "linux") or len(encoded) > LONGEST_SEQUENCE:
        return False
    try:
        terminal.write(f"\033]52;c;{encoded}\a")
        terminal.flush()
    except (OSError, ValueError):  # it has gone, or is closed
        return False
    return True
