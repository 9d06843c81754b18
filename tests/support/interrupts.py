"""Ctrl-C in processes that tests start."""

import signal


def hear_ctrl_c() -> None:
    """For ``preexec_fn``: a child would ignore Ctrl-C where the tests do, as in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
