"""Objects of the host's IPC namespace that nobody inside may find: System V and POSIX IPC."""

from __future__ import annotations

import ctypes
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from jubako.errors import DriverUnavailableError
from jubako.linux.seccomp import current_arch, numbers

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HostIpc", "file_handle", "remove_object"]

_CREATE: Final = 0o1000 | 0o2000  # IPC_CREAT | IPC_EXCL
_RMID: Final = 0
_MQ_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR


def _call(name: str, *arguments: object) -> int:
    """Make a raw system call. Raises OSError."""
    try:
        number = numbers(current_arch())[name]
    except (DriverUnavailableError, KeyError) as error:
        raise OSError(38, f"no number for {name}") from error
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    ready = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *ready))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


_KINDS: Final = {
    "shm": ("shmget", "shmctl", (4096,)),
    "msg": ("msgget", "msgctl", ()),
    "sem": ("semget", "semctl", (1,)),
}


class HostIpc:
    """One marked shared memory segment, message queue, semaphore set and POSIX queue, open to everybody."""

    def __init__(self, mark: bytes, note: Callable[[str, int | str], None]) -> None:
        self.values: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self._made: list[tuple[str, int | str]] = []
        for kind in _KINDS:
            self._make(kind, note)
        if "shm_id" in self.values:
            self._mark(int(self.values["shm_id"]), mark)
        self._make_queue(note)

    def _make(self, kind: str, note: Callable[[str, int | str], None]) -> None:
        get, _, size = _KINDS[kind]
        key = secrets.randbelow(2**30) + 1
        note(kind, key)
        try:
            number = _call(get, key, *size, _CREATE | 0o666)
        except OSError as error:
            self.missing[f"{kind}_key"] = self.missing[f"{kind}_id"] = f"{get} failed: {error.strerror}"
            return
        self._made.append((kind, key))
        self.values |= {f"{kind}_key": str(key), f"{kind}_id": str(number)}

    def _make_queue(self, note: Callable[[str, int | str], None]) -> None:
        name = f"jubako-probe-{secrets.token_hex(6)}"
        note("mq", name)
        mask = os.umask(0)
        try:
            os.close(_call("mq_open", name.encode(), _MQ_FLAGS, 0o666, 0))
        except OSError as error:
            self.missing["mq_name"] = f"no POSIX message queue could be made: {error.strerror}"
            return
        finally:
            os.umask(mask)
        self._made.append(("mq", name))
        self.values["mq_name"] = name

    @staticmethod
    def _mark(number: int, mark: bytes) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        libc.shmdt.argtypes = [ctypes.c_void_p]
        address = libc.shmat(number, None, 0)
        if address not in {None, ctypes.c_void_p(-1).value}:
            ctypes.memmove(address, mark, len(mark))
            libc.shmdt(address)

    def close(self) -> None:
        """Remove them."""
        for kind, key in self._made:
            remove_object(kind, key)


def remove_object(kind: str, key: int | str) -> None:
    """Remove the IPC object with that key, of this user; no error when it is gone."""
    with suppress(OSError):
        if kind == "mq":
            _call("mq_unlink", str(key).encode())
        elif kind in _KINDS:
            get, control, _ = _KINDS[kind]
            number = _call(get, int(key), *((0,) if kind != "msg" else ()), 0)
            _call(control, number, *((0,) if kind == "sem" else ()), _RMID, 0)


def file_handle(path: str) -> tuple[str, int]:
    """Return the kernel's handle of a file as hex text, and its type. Raises OSError where there is none."""
    buffer = ctypes.create_string_buffer(8 + 128)
    ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint32))[0] = 128
    mount = ctypes.c_int(0)
    _call("name_to_handle_at", -100, path.encode(), buffer, ctypes.byref(mount), 0)
    size = int.from_bytes(buffer.raw[:4], "little")
    return buffer.raw[8 : 8 + size].hex(), int.from_bytes(buffer.raw[4:8], "little")
