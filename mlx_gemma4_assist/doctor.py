"""``python -m mlx_gemma4_assist.doctor``."""

from .commands.doctor import doctor
from .commands.run import run_one

if __name__ == "__main__":
    run_one(doctor)
