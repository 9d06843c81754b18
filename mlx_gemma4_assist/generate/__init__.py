"""The door ``python -m mlx_gemma4_assist.generate``; what callers take from the package by this name is a function."""
