"""Generated code: scripts/gen_sync.py writes it."""
