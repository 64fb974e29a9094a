# Make more empty files than allowed.
count, folder = int(ARG["count"]), os.path.join(ARG["path"], "probe-inodes-%d" % os.getpid())
os.mkdir(folder)
fd = os.open(folder, os.O_RDONLY)
made, reason = 0, ""
try:
    while made < count:
        os.close(os.open("%d" % made, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
        made += 1
except OSError as error:
    reason = word(error)
if made == count:
    escaped("%d files made" % made)
contained("%s after %d files" % (reason, made))
