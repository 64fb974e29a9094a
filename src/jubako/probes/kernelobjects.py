"""Objects of the host's IPC namespace that nobody inside may find: System V and POSIX IPC."""

from __future__ import annotations

import ctypes
import os
import secrets
from contextlib import suppress
from typing import Final

from jubako.errors import DriverUnavailableError
from jubako.linux.seccomp import current_arch, numbers

__all__ = ["HostIpc", "file_handle"]

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


class HostIpc:
    """One marked shared memory segment, message queue, semaphore set and POSIX queue, open to everybody."""

    def __init__(self, mark: bytes) -> None:
        self.values: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self._undo: list[tuple[str, int]] = []
        self._queue = f"jubako-probe-{secrets.token_hex(6)}"
        key = secrets.randbelow(2**30) + 1
        self._make("shm_key", "shmget", "shmctl", key, 4096)
        self._make("msg_key", "msgget", "msgctl", key)
        self._make("sem_key", "semget", "semctl", key, 1)
        if "shm_id" in self.values:
            self._mark(int(self.values["shm_id"]), mark)
        try:
            mask = os.umask(0)
            try:
                os.close(_call("mq_open", self._queue.encode(), _MQ_FLAGS, 0o666, 0))
            finally:
                os.umask(mask)
            self.values["mq_name"] = self._queue
        except OSError as error:
            self.missing["mq_name"] = f"no POSIX message queue could be made: {error.strerror}"

    def _make(self, name: str, get: str, control: str, key: int, *size: int) -> None:
        try:
            number = _call(get, key, *size, _CREATE | 0o666)
        except OSError as error:
            self.missing[name] = self.missing[name.replace("key", "id")] = f"{get} failed: {error.strerror}"
            return
        self._undo.append((control, number))
        self.values[name] = str(key)
        self.values[name.replace("key", "id")] = str(number)

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
        for control, number in self._undo:
            with suppress(OSError):
                _call(control, number, 0, _RMID, 0) if control == "semctl" else _call(control, number, _RMID, 0)
        if "mq_name" in self.values:
            with suppress(OSError):
                _call("mq_unlink", self._queue.encode())


def file_handle(path: str) -> tuple[str, int]:
    """Return the kernel's handle of a file as hex text, and its type. Raises OSError where there is none."""
    buffer = ctypes.create_string_buffer(8 + 128)
    ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint32))[0] = 128
    mount = ctypes.c_int(0)
    _call("name_to_handle_at", -100, path.encode(), buffer, ctypes.byref(mount), 0)
    size = int.from_bytes(buffer.raw[:4], "little")
    return buffer.raw[8 : 8 + size].hex(), int.from_bytes(buffer.raw[4:8], "little")
