"""L3: what is kept under the state directory: the record of sandboxes in SQLite, findings of probes."""

from jubako.store.findings import ProbeFindings
from jubako.store.state import SandboxRecord, StateStore

__all__ = ["ProbeFindings", "SandboxRecord", "StateStore"]
