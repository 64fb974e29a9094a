"""What one check is: an id, a promise, and a coroutine that fails when the promise is broken."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import anyio
import pytest

from jubako.boundary.contract import Feature
from jubako.testing.conformance._bench import Setup, Workbench
from jubako.testing.conformance._guest import patient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

__all__ = ["Check", "Checks", "check", "checks_of", "run_check"]

_Parameters = ParamSpec("_Parameters")
_Self = TypeVar("_Self", bound="Checks")

_DEFAULT_TIMEOUT: Final = 30.0


class Checks:
    """Base of all groups of checks. A group is a plain class, so that suites can be put together."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not __debug__:
            msg = "the conformance suite is made of assert statements: don't run it under python -O"
            raise RuntimeError(msg)


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract.

    Attributes:
        id: Stable name, ``group.promise``.
        promise: What holds, in one sentence.
        name: Name of the test method.
        parameters: Names of what the method asks for, see ``Workbench.arguments``.
        needs: Features without which the promise has no meaning; ``features.*`` checks the refusal.
        slow: Whether it takes more than about a second.
        exclusive: Whether it must not run beside other checks in one process.
        timeout: Seconds after which it has failed, times the patience with the driver.
    """

    id: str
    promise: str
    name: str
    function: Callable[..., Awaitable[None]]
    parameters: tuple[str, ...]
    needs: frozenset[Feature]
    slow: bool
    exclusive: bool
    timeout: float


def check(
    identity: str,
    *,
    needs: Feature | Collection[Feature] = (),
    slow: bool = False,
    exclusive: bool = False,
    timeout: float = _DEFAULT_TIMEOUT,
) -> Callable[[Callable[Concatenate[_Self, _Parameters], Awaitable[None]]], Callable[[_Self, Setup], Awaitable[None]]]:
    """Make a check of a coroutine method whose parameters are names known to ``Workbench.arguments``.

    The method that pytest sees takes the ``setup`` fixture; the workbench is opened and closed inside
    of it, so that a driver's background task that fails can only break the check that started it.
    A check that starts a shell or looks at processes ``needs`` ``Feature.PROCESSES``.
    """

    def decorate(
        function: Callable[Concatenate[_Self, _Parameters], Awaitable[None]],
    ) -> Callable[[_Self, Setup], Awaitable[None]]:
        name = function.__name__
        if name != "test_" + identity.replace(".", "_").replace("-", "_"):
            msg = f"method {name} does not carry the name of its check {identity!r}"
            raise TypeError(msg)
        made = Check(
            id=identity,
            promise=(inspect.getdoc(function) or "").partition("\n")[0],
            name=name,
            function=function,
            parameters=tuple(inspect.signature(function).parameters)[1:],
            needs=frozenset({needs} if isinstance(needs, Feature) else needs),
            slow=slow,
            exclusive=exclusive,
            timeout=timeout,
        )

        async def run(self: _Self, setup: Setup) -> None:
            await run_check(made, self, setup)

        # Not functools.wraps: pytest would follow __wrapped__ and take the inner parameters for fixtures.
        run.__name__ = name
        run.__qualname__ = function.__qualname__
        run.__doc__ = function.__doc__
        run.__module__ = function.__module__
        run.conformance_check = made  # type: ignore[attr-defined]  # read back by check_of
        return pytest.mark.slow(run) if slow else run

    return decorate


def check_of(function: object) -> Check | None:
    """Return the check that a test function stands for, if it is one."""
    found = getattr(function, "conformance_check", None)
    return found if isinstance(found, Check) else None


def checks_of(suite: type) -> tuple[Check, ...]:
    """Return all checks of a suite, sorted by id. Raises TypeError when two share an id."""
    found: dict[str, Check] = {}
    for made in _members(suite):
        if found.setdefault(made.id, made) is not made:
            msg = f"two checks have the id {made.id!r}"
            raise TypeError(msg)
    return tuple(found[identity] for identity in sorted(found))


def _members(suite: type) -> Iterator[Check]:
    for name in dir(suite):
        made = check_of(getattr(suite, name))
        if made is not None:
            yield made


async def run_check(made: Check, suite: object, setup: Setup) -> None:
    """Run one check on a fresh workbench; returns when the promise held, raises otherwise.

    Raises ``pytest.skip.Exception`` when the driver doesn't declare a feature that the check needs.
    """
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        bench = Workbench(setup, tasks)
        try:
            with patient(setup.patience), anyio.fail_after(made.timeout * setup.patience):
                await bench.open()
                _require(made, bench)
                await made.function(suite, **await bench.arguments(made.parameters))
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # raised below, out of the task group that would wrap it
            failure = error
        finally:
            with anyio.CancelScope(shield=True):
                failure = await bench.close(failure)
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _require(made: Check, bench: Workbench) -> None:
    missing = sorted(made.needs - bench.report.features)
    if missing:
        refused = " and ".join(f"features.{feature}" for feature in missing)
        pytest.skip(f"driver {bench.driver.name} declares no {' and no '.join(missing)}: see {refused}")
