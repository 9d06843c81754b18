"""``python -m mlx_gemma4_assist.convert``."""

from .commands.convert import convert
from .commands.run import run_one

if __name__ == "__main__":
    run_one(convert)
