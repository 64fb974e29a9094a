# Keep swapping a name between something harmless and a link to somewhere else, to win a race.
import time

name, target, how = ARG["name"], ARG["target"], ARG["how"]
end = time.monotonic() + float(ARG["seconds"])
plain, trap = name + ".plain", name + ".trap"
file_name = ARG["file"]
if how == "link":
    os.mkdir(plain)
    with open(os.path.join(plain, file_name), "w") as out:
        out.write("harmless")
    os.symlink(target, trap)
else:
    with open(plain, "w") as out:
        out.write("harmless")
    try:
        os.link(os.path.join(target, file_name), trap)
    except OSError:
        os.symlink(os.path.join(target, file_name), trap)
os.rename(plain, name)
sys.stdout.write("READY\n")
sys.stdout.flush()
count = 0
while time.monotonic() < end:
    try:
        os.rename(name, plain)
        os.rename(trap, name)
        os.rename(name, trap)
        os.rename(plain, name)
        count += 1
    except OSError:
        # The other side wrote or removed the name in between: set the stage again.
        try:
            if how == "link":
                if not os.path.islink(trap):
                    os.path.islink(name) and os.unlink(name)
                    os.path.lexists(trap) or os.symlink(target, trap)
                os.path.isdir(plain) or os.path.isdir(name) or os.mkdir(plain)
            elif not os.path.lexists(trap):
                try:
                    os.link(os.path.join(target, file_name), trap)
                except OSError:
                    os.symlink(os.path.join(target, file_name), trap)
            if not os.path.lexists(plain) and not os.path.lexists(name):
                os.mkdir(plain) if how == "link" else open(plain, "w").close()
            if not os.path.lexists(name):
                os.rename(plain, name)
        except OSError:
            pass
contained("swapped %d times" % count)
