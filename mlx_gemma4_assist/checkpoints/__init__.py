"""From a name on the Hub or a folder on disk to a model in memory."""
