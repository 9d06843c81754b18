"""Whether the output is right, what drafts are worth, and what a conversion cost."""
