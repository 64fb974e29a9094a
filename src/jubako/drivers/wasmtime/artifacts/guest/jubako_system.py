"""Where the library of CPython for WASI has gaps that can be closed here."""

import asyncio
import hashlib
import hmac
import io
import os
import zoneinfo

_ZONES = {}
"""Time zones by name: there is no /usr/share/zoneinfo."""


class _EventLoop(asyncio.SelectorEventLoop):
    """Without the pair of sockets that other threads wake a loop with: there are neither here."""

    def _make_self_pipe(self):
        self._internal_fds += 1

    def _close_self_pipe(self):
        self._internal_fds -= 1

    def _write_to_self(self):
        pass


def _pbkdf2_hmac(hash_name, password, salt, iterations, dklen=None):
    """Password based key derivation function 2 (PKCS #5 v2.0) with HMAC as pseudorandom function."""
    size = hashlib.new(hash_name).digest_size
    length = size if dklen is None else dklen
    if iterations < 1 or length < 1:
        raise ValueError(
            "iteration value must be greater than 0" if iterations < 1 else "key length must be at least 1"
        )
    start, derived = hmac.new(password, None, hash_name), b""
    for block in range(1, -(-length // size) + 1):
        mac = start.copy()
        mac.update(bytes(salt) + block.to_bytes(4, "big"))
        last = mac.digest()
        total = int.from_bytes(last, "big")
        for _ in range(iterations - 1):
            mac = start.copy()
            mac.update(last)
            last = mac.digest()
            total ^= int.from_bytes(last, "big")
        derived += total.to_bytes(size, "big")
    return derived[:length]


def _load_tzdata(key):
    """Return the file of a time zone: what zoneinfo asks when its search path has nothing."""
    try:
        return io.BytesIO(_ZONES[key])
    except KeyError:
        raise zoneinfo.ZoneInfoNotFoundError(f"No time zone found with key {key}") from None


def _available_timezones():
    """Return a set containing all available time zones."""
    return set(_ZONES)


def embed():
    """Read the time zones of the package tzdata. Called once, while the snapshot is made."""
    import tzdata

    home, same = os.path.dirname(tzdata.__file__), {}
    with open(os.path.join(home, "zones"), encoding="utf-8") as names:
        for name in names.read().split():
            with open(os.path.join(home, "zoneinfo", name), "rb") as file:
                data = file.read()
            _ZONES[name] = same.setdefault(data, data)


def install():
    """Put the replacements where programs look for them."""
    asyncio.unix_events._UnixDefaultEventLoopPolicy._loop_factory = _EventLoop
    for module in (asyncio, asyncio.unix_events):
        module.SelectorEventLoop = module.EventLoop = _EventLoop
    hashlib.pbkdf2_hmac = _pbkdf2_hmac
    zoneinfo._common.load_tzdata = _load_tzdata
    zoneinfo.available_timezones = _available_timezones
    zoneinfo.reset_tzpath(())
