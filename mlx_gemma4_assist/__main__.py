"""``python -m mlx_gemma4_assist``: every command under one roof."""

from .commands.benchmark import benchmark
from .commands.chat import chat
from .commands.convert import convert
from .commands.doctor import doctor
from .commands.generate import generate
from .commands.parity import parity
from .commands.run import run_all


def main() -> None:
    """The console script ``mlx-gemma4-assist``."""
    run_all(
        {
            "generate": generate,
            "chat": chat,
            "convert": convert,
            "benchmark": benchmark,
            "parity": parity,
            "doctor": doctor,
        }
    )


if __name__ == "__main__":
    main()
