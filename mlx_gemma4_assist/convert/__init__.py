"""The door ``python -m mlx_gemma4_assist.convert``; what callers take from the package by this name is a function."""
