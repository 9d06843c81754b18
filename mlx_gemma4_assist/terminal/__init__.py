"""The chat in a terminal: what is typed and dropped there, what is shown, where conversations are kept."""
