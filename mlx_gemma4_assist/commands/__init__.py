"""The command line: options in, text and statistics out."""
