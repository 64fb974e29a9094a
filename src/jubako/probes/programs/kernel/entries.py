# Call the kernel by its 32-bit entry, where numbers mean other calls, and by x32 numbers, which filters forget.
import ctypes
import mmap
import platform

if platform.machine() != "x86_64":
    inconclusive("only x86_64 has such entries")


def int80():
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return "getpid answered" if result == os.getpid() else ""


def x32():
    return "getpid answered" if call_number(0x40000000 | NR["getpid"]) == os.getpid() else ""


attempts([("x32", lambda: in_child(x32)), ("int80", lambda: in_child(int80))])
