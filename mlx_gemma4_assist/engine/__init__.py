"""Who runs when: the only mutable room above the cache."""
