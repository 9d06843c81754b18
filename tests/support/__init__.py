"""What tests share: helpers, oracles, synthetic checkpoints, stand-ins."""
