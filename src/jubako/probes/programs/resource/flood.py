# Write without end (bounded at a size far over the limit) to stdout, stderr, or both.
size = int(ARG["mib"]) << 20
block = (b"flood " * 11 + b"\n") * 1000
where = {"stdout": [1], "stderr": [2], "both": [1, 2]}[ARG["where"]]
done = 0
while done < size:
    for fd in where:
        done += os.write(fd, block)
