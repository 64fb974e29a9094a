#!/usr/bin/env bash
# Prepare a checkout: system packages, .venv from the lock file, the `jubako` command in it.
# Does nothing when nothing changed. Needs root or sudo only while a system package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v bwrap >/dev/null || packages+=(bubblewrap)
command -v setpriv >/dev/null || packages+=(util-linux)
python=${JUBAKO_PYTHON:-/usr/bin/python3}
[ -x "$python" ] || python=$(command -v python3 || true)
if [ -z "$python" ]; then
  packages+=(python3 python3-venv)
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  packages+=(python3-venv)
fi

# gVisor, where the system has it and we may install it: one more boundary, not a need.
if ! command -v runsc >/dev/null && apt-cache show runsc >/dev/null 2>&1 &&
  { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }; then
  packages+=(runsc)
fi

if [ ${#packages[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "setup: missing: ${packages[*]}; install them with this system's package manager and run again" >&2
    exit 1
  fi
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "setup: missing: ${packages[*]}; as root run: apt-get install -y ${packages[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "setup: installing ${packages[*]}"
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  python=${JUBAKO_PYTHON:-/usr/bin/python3}
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $python is older than 3.11; set JUBAKO_PYTHON to a newer one" >&2
  exit 1
}

stamp=.venv/.jubako-setup
wanted=$(cat requirements/dev.lock pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] && [ -x .venv/bin/jubako ]; then
  exit 0
fi
echo "setup: making .venv from requirements/dev.lock (about a minute)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check --no-input --only-binary :all: \
  --require-hashes -r requirements/dev.lock
.venv/bin/python -m pip install -q --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
echo "$wanted" >"$stamp"
echo "setup: done; .venv/bin/jubako is ready"
