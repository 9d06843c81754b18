"""Convert a target and its assistant to MLX: the package's ``convert`` command, where users of mlx-lm look for it."""

from mlx_gemma4_assist.commands.convert import convert
from mlx_gemma4_assist.commands.run import run_one

if __name__ == "__main__":
    run_one(convert, "python convert.py")
