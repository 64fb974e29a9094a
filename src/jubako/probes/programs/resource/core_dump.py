# Crash, and see whether the kernel writes the memory out to the host.
import resource
import signal

try:
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read()
except OSError:
    pattern = ""  # another kernel than Linux
if pattern.startswith("|"):
    # No limit of a process keeps the kernel from starting it, so nothing is tried.
    inconclusive("crashes here start a program of the host (kernel.core_pattern)")
try:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (OSError, ValueError):
    pass
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGABRT)
    os._exit(0)
status = os.waitpid(pid, 0)[1]
try:
    for name in os.listdir("."):
        if name.startswith("core"):
            os.unlink(name)
except OSError:
    pass
escaped("a core was dumped") if os.WCOREDUMP(status) else contained(
    "no core (limit %d)" % resource.getrlimit(resource.RLIMIT_CORE)[1]
)
