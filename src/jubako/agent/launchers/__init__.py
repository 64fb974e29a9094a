"""Programs that the agent starts as a launcher: text for an interpreter inside, which has no jubako.

``forks`` is the side of the agent's protocol that every launcher has, ``preload`` a launcher of Python
programs. Neither imports the other: ``jubako.guest.launcher`` puts them together.
"""
