# Open kernel settings below /proc/sys for writing, wherever the kernel lets anybody; nothing is written.
named = ["kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "vm/panic_on_oom", "user/max_user_namespaces"]


def opened(path):
    os.close(os.open(path, os.O_WRONLY))
    return "opened for writing"


def any_of_net():
    count = 0
    for folder, _folders, names in os.walk("/proc/sys/net"):
        for name in names:
            count += 1
            try:
                return opened(os.path.join(folder, name)) + " " + name
            except OSError:
                continue
        if count > 300:
            break
    raise OSError(errno.EACCES, "none of %d" % count)


attempts([(name, lambda name=name: opened("/proc/sys/" + name)) for name in named] + [("net", any_of_net)])
