"""Run under the default filter: ``exec PROGRAM ...`` or ``calls`` with JSON on stdin.

``calls`` reads [[number, argument, ...], ...] and prints [[result, errno], ...]; 64-bit arguments pass unchanged.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

from linux_bpf import load

from jubako.linux.seccomp import DEFAULT, compile_filter


def main() -> None:
    calls = json.load(sys.stdin) if sys.argv[1] == "calls" else []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    load(compile_filter(DEFAULT))
    if sys.argv[1] == "exec":
        os.execvp(sys.argv[2], sys.argv[2:])
    results = []
    for number, *arguments in calls:
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value & (2**64 - 1)) for value in arguments))
        results.append([result, ctypes.get_errno()])
    sys.stdout.write(json.dumps(results))


main()
