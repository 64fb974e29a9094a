# Run a prepared program that is setuid to another user, or that carries file capabilities.
import subprocess

out = subprocess.run(
    [
        ARG["path"],
        "-I",
        "-S",
        "-c",
        (
            "import os\n"
            "caps=[l for l in open('/proc/self/status') if l.startswith('CapEff')][0].split()[1]\n"
            "print(os.geteuid(), caps)"
        ),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
).stdout.split()
if len(out) != 2:
    contained("the program could not be run")
if int(out[0]) != os.geteuid():
    escaped("became uid %s" % out[0].decode())
if int(out[1], 16) != 0:
    escaped("gained capabilities %s" % out[1].decode())
contained("ran without a gain")
