"""What a row remembers: keys and values, and the tokens that they belong to."""
