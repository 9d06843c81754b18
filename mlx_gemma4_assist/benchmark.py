"""``python -m mlx_gemma4_assist.benchmark``."""

from .commands.benchmark import benchmark
from .commands.run import run_one

if __name__ == "__main__":
    run_one(benchmark)
