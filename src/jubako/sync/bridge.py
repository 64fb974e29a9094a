"""The bridge between blocking callers and the asynchronous core: one event loop in one thread.

All blocking sandboxes of a process share it. It starts with the first of them and ends with the
interpreter, which destroys what is left.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from jubako.errors import SandboxStateError
from jubako.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

__all__ = ["Bridge", "close_shared_bridge", "run_once", "shared_bridge"]

P = ParamSpec("P")
T = TypeVar("T")

_CLOSING_SECONDS: Final = 20.0


class Bridge:
    """An event loop in a thread of its own, with a runtime in it. Made by ``shared_bridge``."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._ready: Future[tuple[BlockingPortal, Runtime]] = Future()
        # A daemon, because the interpreter waits for other threads before it runs what atexit holds.
        self._thread = threading.Thread(target=anyio.run, args=(self._main,), name="jubako-bridge", daemon=True)
        self._thread.start()
        self._portal, self._runtime = self._ready.result()
        atexit.register(self.close)

    @property
    def runtime(self) -> Runtime:
        """The runtime that all blocking sandboxes share."""
        return self._runtime

    def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the asynchronous function returns. An interrupt of the caller cancels it.

        Raises SandboxStateError inside a running event loop, after a fork, and after the end.
        """
        return self._call(_name_of(function), partial(function, *args, **kwargs))

    def iterate(self, iterator: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Yield what the asynchronous iterator yields, and close it at the end."""
        try:
            while True:
                try:
                    item = self._call("__next__", iterator.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            with suppress(SandboxStateError):  # a forgotten generator may be closed after the end of everything
                self._call("close", iterator.aclose)

    def next(self, ready: Callable[[], T | None], function: Callable[[], Awaitable[T]]) -> T:
        """Return the next item, from ``ready`` where there is one. Raises StopIteration at the end."""
        # Crossing to the other thread costs more than reading a line.
        item = ready()
        if item is not None:
            return item
        try:
            return self._call("__next__", function)
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Destroy all sandboxes of this bridge and end its thread; idempotent."""
        atexit.unregister(self.close)
        if self._pid != os.getpid() or not self._thread.is_alive():
            return
        with suppress(RuntimeError):  # it ended between the two lines
            self._portal.start_task_soon(self._portal.stop, True)  # noqa: FBT003  # positional in anyio
        self._thread.join(_CLOSING_SECONDS)

    def _call(self, name: str, function: Callable[[], Awaitable[T]]) -> T:
        _refuse_in_event_loop(name)
        if self._pid != os.getpid():
            msg = f"{name}: the sandbox belongs to the process that was forked"
            raise SandboxStateError(msg, hint="make sandboxes after the fork", details={"call": name})
        try:
            future = self._portal.start_task_soon(function)
        except RuntimeError as error:
            raise _ended(name) from error
        try:
            return future.result()
        except CancelledError as error:
            raise _ended(name) from error
        except BaseException:
            future.cancel()
            raise

    async def _main(self) -> None:
        async with BlockingPortal() as portal:
            try:
                runtime = await Runtime().__aenter__()
            except BaseException as error:  # noqa: BLE001  # handed over to the thread that waits for it
                self._ready.set_exception(error)
                return
            self._ready.set_result((portal, runtime))
            try:
                await portal.sleep_until_stopped()
            finally:
                await runtime.__aexit__(None, None, None)


class _Shared:
    """The one bridge of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bridge: Bridge | None = None
        self._watching_forks = False

    def get(self) -> Bridge:
        with self._lock:
            if self._bridge is None:
                self._bridge = Bridge()
                if not self._watching_forks:
                    os.register_at_fork(after_in_child=self._forget)
                    self._watching_forks = True
            return self._bridge

    def close(self) -> None:
        with self._lock:
            bridge, self._bridge = self._bridge, None
        if bridge is not None:
            bridge.close()

    def _forget(self) -> None:
        # The thread exists only in the parent, and the lock may be held by one that doesn't exist here.
        self._lock = threading.Lock()
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            bridge.runtime.disown()


_SHARED: Final = _Shared()  # the one piece of state of this module: threads and loops are per process by nature


def shared_bridge(name: str) -> Bridge:
    """Return the bridge of this process, starting it if need be, for the class ``name``.

    Raises SandboxStateError inside a running event loop.
    """
    _refuse_in_event_loop(name)
    return _SHARED.get()


def close_shared_bridge() -> None:
    """Destroy all blocking sandboxes of this process and end their thread, as the interpreter's end does."""
    _SHARED.close()


def run_once(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what an asynchronous function returns that needs no runtime."""
    _refuse_in_event_loop(function.__name__.removeprefix("async_"), function.__name__)
    return anyio.run(partial(function, *args, **kwargs))


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", "this call")


def _refuse_in_event_loop(name: str, spelling: str = "") -> None:
    if not _in_event_loop():
        return
    msg = f"{name} blocks, and was called inside a running event loop"
    hint = f"await {spelling}(...)" if spelling else "use `async with AsyncSandbox() as box:` and await its methods"
    raise SandboxStateError(msg, hint=hint, details={"call": name})


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    return True


def _ended(name: str) -> SandboxStateError:
    msg = f"{name}: all blocking sandboxes have ended"
    return SandboxStateError(msg, hint="the interpreter is shutting down, or the event loop thread failed")
