"""The ``python3`` of the WebAssembly boundary: one command line, run in a snapshot of an initialised interpreter.

Everything at module level happens while the snapshot is made; ``run`` happens in each copy of it.
"""

import importlib

import jubako_library
import jubako_tools  # noqa: F401  # must be in the snapshot: nothing of this directory can be imported later
import wit_world

jubako_library.embed()

_WARM = (
    "abc argparse array ast asyncio base64 binascii bisect calendar cmath codecs collections collections.abc "
    "concurrent.futures configparser contextlib contextvars copy csv dataclasses datetime decimal difflib "
    "email.message email.parser email.utils enum fnmatch fractions functools gc getpass glob graphlib gzip "
    "hashlib heapq hmac html html.parser http importlib.metadata importlib.resources importlib.util inspect "
    "io ipaddress itertools json keyword linecache locale logging math mimetypes numbers operator os pathlib "
    "pickle pkgutil platform pprint queue random re reprlib runpy sched secrets selectors shlex shutil signal "
    "socket sqlite3 stat statistics string struct subprocess sys tarfile tempfile textwrap threading time "
    "timeit tokenize tomllib traceback types typing unicodedata unittest unittest.mock urllib.error "
    "urllib.parse urllib.request uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo"
)
for _name in _WARM.split():
    importlib.import_module(_name)

import jubako_console  # noqa: E402  # after the embedding, which compiles what this imports
import jubako_system  # noqa: E402

jubako_system.embed()
jubako_library.install()
jubako_system.install()
jubako_console.settle()


class WitWorld(wit_world.WitWorld):
    """What the component exports."""

    def run(self, argv):
        """Run one command line; return the exit status."""
        return jubako_console.main(argv)
