"""``python -m mlx_gemma4_assist``: every command under one roof."""

from .commands.doors import run_commands


def main() -> None:
    """The console script ``mlx-gemma4-assist``."""
    run_commands()


if __name__ == "__main__":
    main()
