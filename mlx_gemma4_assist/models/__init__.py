"""The networks: what a forward computes. Nothing here knows how tokens are chosen."""
