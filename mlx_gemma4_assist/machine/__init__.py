"""What this computer is, what fits on it, and what suits it."""
