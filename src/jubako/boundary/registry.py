"""Finds drivers by name or boundary without importing any of them.

Built-in drivers stand in a static table, because asking the installed distributions for entry
points costs more than starting a sandbox. Entry points of the group ``jubako.drivers`` are read
only for a name or boundary that the table doesn't have, and by ``doctor``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from jubako.boundary.contract import BoundaryKind
from jubako.errors import ConfigurationError, MissingExtraError, UnknownDriverError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jubako.boundary.contract import Driver

__all__ = ["BUILT_IN", "GROUP", "DriverEntry", "DriverRegistry", "installed_entries"]

GROUP: Final = "jubako.drivers"
"""The entry point group of third-party drivers."""


@dataclass(frozen=True, slots=True)
class DriverEntry:
    """Where one driver is: ``target`` is ``module:Class``, ``extra`` the optional dependency it may need.

    ``boundary`` is unknown (``None``) for a third-party driver until it is loaded.
    """

    name: str
    target: str
    boundary: BoundaryKind | None = None
    extra: str = ""


BUILT_IN: Final = (
    DriverEntry("bwrap", "jubako.drivers.bwrap:BwrapDriver", BoundaryKind.PROCESS, "bwrap"),
    DriverEntry("runsc", "jubako.drivers.runsc:RunscDriver", BoundaryKind.GVISOR, "bwrap"),
    DriverEntry("wasmtime", "jubako.drivers.wasmtime:WasmtimeDriver", BoundaryKind.WASM, "wasm"),
)
"""The drivers of this package; within one boundary the preferred one comes first."""


def installed_entries() -> tuple[DriverEntry, ...]:
    """Return the drivers that installed distributions register. Reads every distribution: slow."""
    from importlib.metadata import entry_points

    return tuple(DriverEntry(point.name, point.value) for point in entry_points(group=GROUP))


class DriverRegistry:
    """The drivers that can be named: the built-in table first, then what distributions register.

    Two drivers of one name are an error and never an overwrite. Nothing is imported before a driver
    is loaded, and each driver is made once.
    """

    def __init__(
        self,
        built_in: Iterable[DriverEntry] = BUILT_IN,
        scan: Callable[[], tuple[DriverEntry, ...]] = installed_entries,
    ) -> None:
        self._table = {entry.name: entry for entry in built_in}
        self._scan = scan
        self._scanned = False
        self._drivers: dict[str, Driver] = {}

    def entries(self) -> tuple[DriverEntry, ...]:
        """Return all drivers, the installed ones included. Raises ConfigurationError for a doubled name."""
        if not self._scanned:
            for entry in self._scan():
                known = self._table.get(entry.name)
                # control: a second driver of a known name would sit in the trusted computing base unseen.
                if known is not None and known.target != entry.target:
                    msg = f"two drivers are named {entry.name!r}: {known.target} and {entry.target}"
                    raise ConfigurationError(
                        msg,
                        hint="uninstall one of the two distributions",
                        details={"name": entry.name, "targets": [known.target, entry.target]},
                    )
                self._table.setdefault(entry.name, entry)
            self._scanned = True
        return tuple(self._table.values())

    def resolve(self, boundary: str = "auto", driver: str | None = None) -> tuple[DriverEntry, ...]:
        """Return the drivers to try, best first.

        ``auto`` means the built-in drivers from the thickest wall to the thinnest. Raises
        UnknownDriverError when nothing has that name or boundary, ConfigurationError when driver and
        boundary contradict each other.
        """
        if driver is not None:
            return (self._named(driver, boundary),)
        if boundary == "auto":
            order = list(BoundaryKind)
            known = [entry for entry in self._table.values() if entry.boundary is not None]
            known.sort(key=lambda entry: -order.index(cast("BoundaryKind", entry.boundary)))
            return tuple(known)
        kind = self._kind(boundary)
        found = tuple(entry for entry in self._table.values() if entry.boundary is kind)
        if not found:
            found = tuple(entry for entry in self.entries() if self._boundary(entry) is kind)
        if not found:
            present = sorted({str(self._boundary(entry)) for entry in self._table.values()})
            msg = f"no driver for the boundary {boundary!r} is installed"
            raise UnknownDriverError(
                msg,
                hint=f"boundaries with a driver: {', '.join(present)}",
                details={"boundary": boundary, "boundaries": present},
            )
        return found

    def load(self, name: str) -> Driver:
        """Return the driver of that name, importing it at the first call.

        Raises UnknownDriverError, or MissingExtraError when what it needs isn't installed.
        """
        if name not in self._drivers:
            self._drivers[name] = _make(self._entry(name))
        return self._drivers[name]

    def loaded(self) -> tuple[Driver, ...]:
        """Return the drivers that were loaded so far."""
        return tuple(self._drivers.values())

    def _named(self, name: str, boundary: str) -> DriverEntry:
        entry = self._entry(name)
        if boundary != "auto" and self._boundary(entry) is not self._kind(boundary):
            msg = f"driver {name!r} builds the boundary {self._boundary(entry)}, not {boundary!r}"
            raise ConfigurationError(
                msg, hint="leave one of the two out", details={"driver": name, "boundary": boundary}
            )
        return entry

    def _entry(self, name: str) -> DriverEntry:
        if name not in self._table:
            self.entries()
        if name not in self._table:
            msg = f"no driver is named {name!r}"
            raise UnknownDriverError(
                msg, hint=_suggest(name, self._table), details={"driver": name, "drivers": sorted(self._table)}
            )
        return self._table[name]

    def _boundary(self, entry: DriverEntry) -> BoundaryKind:
        return entry.boundary or self.load(entry.name).boundary

    @staticmethod
    def _kind(boundary: str) -> BoundaryKind:
        try:
            return BoundaryKind(boundary)
        except ValueError:
            kinds = ["auto", *(str(kind) for kind in BoundaryKind)]
            msg = f"no boundary is named {boundary!r}"
            raise UnknownDriverError(
                msg, hint=_suggest(boundary, kinds), details={"boundary": boundary, "boundaries": kinds}
            ) from None


def _make(entry: DriverEntry) -> Driver:
    module, _, attribute = entry.target.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except ImportError as error:
        extra = entry.extra or entry.name
        msg = f"driver {entry.name!r} can't be imported: {error}"
        raise MissingExtraError(msg, hint=f"pip install 'jubako[{extra}]'", details={"extra": extra}) from error
    except AttributeError as error:
        msg = f"driver {entry.name!r} is registered as {entry.target}, which doesn't exist"
        raise ConfigurationError(msg, hint="reinstall the distribution that registers it") from error
    if made.name != entry.name:
        msg = f"driver {entry.name!r} calls itself {made.name!r}"
        raise ConfigurationError(msg, hint="the entry point and the driver must have one name")
    return cast("Driver", made)


def _suggest(word: str, known: Iterable[str]) -> str:
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
