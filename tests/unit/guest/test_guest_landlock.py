"""The second wall, put up by the agent itself."""

from __future__ import annotations

from pathlib import PurePosixPath
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest

from jubako.boundary.contract import TerminalSize
from jubako.errors import GuestPermissionError, LaunchError
from jubako.guest import LandlockConfig
from jubako.linux.landlock import landlock_abi

if TYPE_CHECKING:
    from conftest import OpenGuest

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not landlock_abi(), reason="the kernel has no Landlock")]
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts", "/proc")


async def test_writes_stay_where_they_may(open_guest: OpenGuest, place: str, tmp_path: object) -> None:
    workspace = "/work" if place == "bwrap" else f"{tmp_path}/workspace"
    wall = LandlockConfig(writable=(workspace, "/no/such/place", *DEVICES), required=True)
    async with open_guest(landlock=wall) as guest:
        hello = guest.session.hello
        assert (hello.landlock, hello.landlock_note) == (True, "")
        assert hello.landlock_abi == landlock_abi()
        outside = f"/tmp/{token_hex(8)}"
        inside = "echo ok > file; mkdir d; mv file d; cat d/file; ls / >/dev/null"
        done = await guest.sh(f'{inside}; touch "$1"; ln d/file "$1"; mkdir "$1"; ls "$1"', outside)
        assert done.out == b"ok\n"
        assert done.err.count(b"\n") == 4
        assert done.err.count(b"Permission denied") >= 2
        assert (await guest.sh("echo x > /dev/null; echo y > /dev/stderr")).err == b"y\n"
        tty = await guest.sh("tty > /dev/tty; stty -echo; stty size", tty=TerminalSize(7, 9))
        assert tty.out.endswith(b"7 9\r\n")
        with pytest.raises(GuestPermissionError):
            await guest.session.files.write(PurePosixPath(outside), b"x")
        await guest.session.files.write(PurePosixPath("z"), b"x")


async def test_hidden_paths_stay_hidden(open_guest: OpenGuest, place: str, tmp_path: object) -> None:
    workspace = "/work" if place == "bwrap" else f"{tmp_path}/workspace"
    readable = ("/usr", "/bin", "/lib", "/lib64", "/proc", "/etc/alternatives")
    async with open_guest(landlock=LandlockConfig(readable=readable, writable=(workspace, *DEVICES))) as guest:
        done = await guest.sh("cat /etc/passwd; cat /etc/hostname; ls / | head -1")
        assert done.err.count(b"Permission denied") == 2
        assert done.out


async def test_walls_that_cannot_be_built(open_guest: OpenGuest) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_guest(landlock=LandlockConfig(writable=("/etc/passwd/x",), required=True)):
            pass
    assert caught.group_contains(LaunchError, match="Not a directory")
    async with open_guest(landlock=LandlockConfig(writable=("/etc/passwd/x",))) as guest:
        assert not guest.session.hello.landlock
        assert "/etc/passwd/x: Not a directory" in guest.session.hello.landlock_note
