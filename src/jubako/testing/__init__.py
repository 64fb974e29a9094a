"""What a driver's author needs: the conformance suite, broken drivers, and the pytest plugin.

Nothing is imported here, so that the pytest plugin stays cheap in other projects:

* ``jubako.testing.conformance``: the suite as pytest base classes,
* ``jubako.testing.runner``: the same checks without pytest's collection,
* ``jubako.testing.broken``: drivers that break one promise each,
* ``jubako.testing.drivers``: which drivers this machine must have.
"""
