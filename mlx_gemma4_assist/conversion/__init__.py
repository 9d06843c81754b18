"""From checkpoints of Hugging Face to MLX folders: a target and its assistant, quantized or not."""
