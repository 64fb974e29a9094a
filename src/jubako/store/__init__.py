"""L3: what is kept under the state directory: records of sandboxes and snapshots in SQLite, findings of probes."""

from jubako.store.findings import ProbeFindings
from jubako.store.snapshots import SnapshotRecord, SnapshotTable
from jubako.store.state import SandboxRecord, StateStore

__all__ = ["ProbeFindings", "SandboxRecord", "SnapshotRecord", "SnapshotTable", "StateStore"]
