"""Pictures, sound and video to soft tokens."""
