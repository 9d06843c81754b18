"""``python -m mlx_gemma4_assist.export``."""

from .commands.doors import run_command

if __name__ == "__main__":
    run_command("export")
