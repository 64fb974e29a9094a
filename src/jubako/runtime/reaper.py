"""Cleans up after owners that died without doing it themselves.

An owner is dead when its lock can be taken. The lock is held while its leftovers are removed, so
that two reapers never meet, and its files go last, so that a reaper that dies is itself followed up.
With nothing to do this costs one directory listing and one query.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from jubako.errors import ConfigurationError, JubakoError
from jubako.events import SandboxReaped
from jubako.runtime.owner import OwnerLock, owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jubako.boundary.contract import Driver
    from jubako.boundary.registry import DriverRegistry
    from jubako.events import Recorder
    from jubako.store import StateStore

__all__ = ["reap_dead_owners"]

_LOGGER = logging.getLogger("jubako.reaper")


async def reap_dead_owners(own: OwnerLock, store: StateStore, registry: DriverRegistry, recorder: Recorder) -> int:
    """Remove what dead owners left on this machine and return how many sandboxes that were.

    What can't be removed stays recorded for the next start and is logged; it doesn't stop this one.
    """
    run = own.directory.parent
    reaped = 0
    for owner in sorted((owners(run) | store.owners()) - {own.owner}):
        lock = OwnerLock.acquire(run, owner)
        if lock is None:
            continue
        try:
            reaped += await _reap_owner(lock, store, registry, recorder)
        except (JubakoError, OSError) as error:
            _LOGGER.warning("owner %s left something that can't be removed yet: %s", owner, error)
            lock.abandon()
        except BaseException:
            lock.abandon()
            raise
        else:
            lock.release()
    return reaped


async def _reap_owner(lock: OwnerLock, store: StateStore, registry: DriverRegistry, recorder: Recorder) -> int:
    left = {record.id: record.driver for record in store.find(owner=lock.owner)}
    for driver in _drivers(registry):
        for ref in await driver.orphans(lock.owner):
            await driver.reap(ref)
            left[ref.handle] = driver.name
    for sandbox_id, name in left.items():
        recorder.record(sandbox_id, SandboxReaped(driver=name, owner=lock.owner))
        recorder.forget(sandbox_id)
    await store.delete_owner(lock.owner)
    return len(left)


def _drivers(registry: DriverRegistry) -> Iterator[Driver]:
    for entry in registry.entries():
        try:
            yield registry.load(entry.name)
        except ConfigurationError as error:
            _LOGGER.info("driver %s is skipped: %s", entry.name, error)
