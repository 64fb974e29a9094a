"""The bubblewrap jail: namespaces, cgroup, seccomp and Landlock around the guest agent.

The process boundary is made of it, and it is the outer wall of boundaries that run a program of ours
around the untrusted one.
"""

from jubako.jail.bubblewrap.driver import JailDriver
from jubako.jail.bubblewrap.instance import JailedInstance
from jubako.jail.bubblewrap.launch import (
    AGENT_PATH,
    OWN_DIRECTORY,
    Descriptors,
    Fittings,
    Launched,
    made_up_files,
    mask_arguments,
    start_jail,
)
from jubako.jail.bubblewrap.plan import (
    SHARED,
    check_expressible,
    jail_controls,
    jail_payload,
    toolchain_arguments,
)
from jubako.jail.bubblewrap.probe import Machine, probe_machine
from jubako.jail.bubblewrap.session import session_config

__all__ = [
    "AGENT_PATH",
    "OWN_DIRECTORY",
    "SHARED",
    "Descriptors",
    "Fittings",
    "JailDriver",
    "JailedInstance",
    "Launched",
    "Machine",
    "check_expressible",
    "jail_controls",
    "jail_payload",
    "made_up_files",
    "mask_arguments",
    "probe_machine",
    "session_config",
    "start_jail",
    "toolchain_arguments",
]
