"""Programs that start as forks of a launcher, through a real agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jubako.guest import preload_launcher

if TYPE_CHECKING:
    from conftest import OpenGuest

pytestmark = pytest.mark.anyio


async def test_a_fork_runs_a_command(open_guest: OpenGuest) -> None:
    async with open_guest(launcher=preload_launcher(["json", "random"])) as guest:
        done = await guest.run(
            "python3", "-c", "import sys; print('json' in sys.modules, sys.argv)", "a", preloaded=True
        )
        assert (done.out, done.err, done.status.code) == (b"True ['-c', 'a']\n", b"", 0)
