"""L2: the contract that every driver keeps, and the lazy registry that finds drivers by name."""
