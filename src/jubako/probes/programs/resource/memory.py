# Use more memory than allowed, in one process; bounded on purpose. It asks for even more than it touches, because
# a limit on address space must leave interpreters some room.
size, how = int(ARG["mib"]) << 20, ARG["how"]
reserved = int(ARG.get("reserve", ARG["mib"])) << 20


def touch(area):
    for offset in range(0, size, 4096):
        area[offset] = 1


def anonymous():
    if ARG.get("heap"):
        touch(bytearray(reserved))
        return
    import mmap

    touch(mmap.mmap(-1, reserved, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def shared():
    import mmap

    touch(mmap.mmap(-1, reserved, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))


def file():
    fd = os.memfd_create("probe") if hasattr(os, "memfd_create") else call("memfd_create", b"probe", 0)
    for _ in range(size >> 20):
        os.write(fd, b"x" * (1 << 20))


def system_v():
    import ctypes

    library = libc()
    library.shmat.restype = ctypes.c_void_p
    library.shmdt.argtypes = [ctypes.c_void_p]
    for _ in range(size >> 23):
        number = call("shmget", 0, 8 << 20, 0o1600)
        address = library.shmat(number, None, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise MemoryError
        ctypes.memset(address, 1, 8 << 20)
        library.shmdt(address)


def locked():
    import ctypes
    import mmap

    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    call("mlock", ctypes.addressof(ctypes.c_char.from_buffer(area)), size)


try:
    {"anonymous": anonymous, "shared": shared, "file": file, "locked": locked, "system-v": system_v}[how]()
except (MemoryError, OSError, ValueError) as error:
    contained("refused (%s)" % word(error))
escaped("used %s MiB (%s)" % (ARG["mib"], how))
