/* Nothing: that MLX is there is what this module says. */
