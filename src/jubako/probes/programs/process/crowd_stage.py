# Stage: a bystander in the same pid namespace; judged after the program.
import time as _time

_reader, _writer = os.pipe()
_bystander = os.fork()
if _bystander == 0:
    _time.sleep(20)
    os._exit(0)
_attacker = os.fork()
if _attacker:
    os.waitpid(_attacker, 0)
    _time.sleep(0.02)
    if os.waitpid(_bystander, os.WNOHANG)[0]:
        escaped("a bystander was killed")
    os.kill(_bystander, 9)
    contained("the bystander lives")
