"""``python -m mlx_gemma4_assist.parity``."""

from .commands.parity import parity
from .commands.run import run_one

if __name__ == "__main__":
    run_one(parity)
