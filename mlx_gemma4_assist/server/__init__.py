"""A local server: protocols that apps speak, translated to and from one kind of request, and the engine behind them."""
