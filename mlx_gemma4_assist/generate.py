"""``python -m mlx_gemma4_assist.generate``."""

from .commands.generate import generate
from .commands.run import run_one

if __name__ == "__main__":
    run_one(generate)
