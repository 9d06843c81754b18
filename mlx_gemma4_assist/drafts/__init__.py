"""How many drafts a round makes."""
