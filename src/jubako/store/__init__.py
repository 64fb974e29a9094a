"""L3: the record of sandboxes, in SQLite under the state directory."""

from jubako.store.state import SandboxRecord, StateStore

__all__ = ["SandboxRecord", "StateStore"]
