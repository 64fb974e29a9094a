# Write to a host directory that was bound writable by mistake: only a second wall can refuse it.
path = os.path.join(ARG["path"], "probe-%d" % os.getpid())
attempts(
    [("create", lambda: os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)), ("mkdir", lambda: os.mkdir(path) or "made")]
)
