"""What a chat draws and reads in a terminal; nothing here imports MLX."""
