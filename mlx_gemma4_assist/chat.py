"""``python -m mlx_gemma4_assist.chat``."""

from .commands.chat import chat
from .commands.run import run_one

if __name__ == "__main__":
    run_one(chat)
