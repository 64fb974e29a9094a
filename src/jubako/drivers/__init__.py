"""L3: one package per mechanism, independent of each other."""
