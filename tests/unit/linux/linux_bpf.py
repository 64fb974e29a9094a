"""A classic BPF interpreter, and a helper that loads a filter into the running process."""

from __future__ import annotations

import ctypes
import struct

LD, AND, JA, JEQ, JGE, RET = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06

Instruction = tuple[int, int, int, int]


def disassemble(program: bytes) -> list[Instruction]:
    return list(struct.iter_unpack("<HBBI", program))


def run(code: list[Instruction], arch: int, number: int, arguments: tuple[int, ...]) -> int:
    """Return what the filter says to one call; raises on anything that the kernel would refuse to load."""
    padded = [value & (2**64 - 1) for value in (*arguments, *(0,) * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0x7F00_DEAD_BEEF, *padded)
    accumulator, position = 0, 0
    while True:
        operation, yes, no, value = code[position]
        position += 1
        if operation == LD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == AND:
            accumulator &= value
        elif operation == JA:
            position += value
        elif operation == JEQ:
            position += yes if accumulator == value else no
        elif operation == JGE:
            position += yes if accumulator >= value else no
        elif operation == RET:
            return value
        else:
            message = f"unknown operation {operation:#x} at {position - 1}"
            raise AssertionError(message)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def load(program: bytes) -> None:
    """Install the filter for this process, as bubblewrap does."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    description = _Program(len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(description)):
        raise OSError(ctypes.get_errno(), "filter not loaded")
