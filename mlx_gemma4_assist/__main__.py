"""``python -m mlx_gemma4_assist``: every command under one roof."""

from .commands.generate import generate
from .commands.run import run_all


def main() -> None:
    """The console script ``mlx-gemma4-assist``."""
    run_all({"generate": generate})


if __name__ == "__main__":
    main()
