"""Rounds as files: a model in a folder that programs without Python run."""
