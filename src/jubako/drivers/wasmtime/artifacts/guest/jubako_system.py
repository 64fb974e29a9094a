"""Where the library of CPython for WASI has gaps that can be closed here."""

import asyncio


class _EventLoop(asyncio.SelectorEventLoop):
    """Without the pair of sockets that other threads wake a loop with: there are neither here."""

    def _make_self_pipe(self):
        self._internal_fds += 1

    def _close_self_pipe(self):
        self._internal_fds -= 1

    def _write_to_self(self):
        pass


def install():
    """Put the replacement where programs look for them."""
    asyncio.unix_events._UnixDefaultEventLoopPolicy._loop_factory = _EventLoop
    for module in (asyncio, asyncio.unix_events):
        module.SelectorEventLoop = module.EventLoop = _EventLoop
