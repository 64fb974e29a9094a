"""The bubblewrap jail: namespaces, cgroup, seccomp and Landlock around the guest agent.

The process boundary is made of it, and it is the outer wall of boundaries that run a program of ours
around the untrusted one.
"""

from jubako.jail.bubblewrap.driver import JailDriver
from jubako.jail.bubblewrap.instance import JailedInstance
from jubako.jail.bubblewrap.launch import OWN_DIRECTORY, Fittings
from jubako.jail.bubblewrap.plan import SHARED, check_expressible, jail_controls, jail_payload
from jubako.jail.bubblewrap.probe import Machine, probe_machine
from jubako.jail.bubblewrap.session import session_config

__all__ = [
    "OWN_DIRECTORY",
    "SHARED",
    "Fittings",
    "JailDriver",
    "JailedInstance",
    "Machine",
    "check_expressible",
    "jail_controls",
    "jail_payload",
    "probe_machine",
    "session_config",
]
