# Run a prepared program that is setuid to another user, or that carries file capabilities.
import subprocess

code = (
    "import os\n"
    "caps = [line for line in open('/proc/self/status') if line.startswith('CapEff')][0].split()[1]\n"
    "print(os.geteuid(), caps)"
)
try:
    done = subprocess.run([ARG["path"], "-I", "-S", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
except OSError as error:
    contained("the program could not be run (%s)" % word(error))
out = done.stdout.split()
if len(out) != 2:
    contained("the program could not be run")
if int(out[0]) != os.geteuid():
    escaped("became uid %s" % out[0].decode())
if int(out[1], 16) != 0:
    escaped("gained capabilities %s" % out[1].decode())
contained("ran without a gain")
