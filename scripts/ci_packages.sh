#!/usr/bin/env bash
# What CI has on top of `make setup`: an ordinary user, pandas in the host's Python, gVisor, and an emulator and a
# kernel for the tests of pure cgroup v2 in a VM.
# The kernel package is only unpacked, not installed: prints the directory for JUBAKO_TEST_KERNEL.
set -euo pipefail

kernel=${JUBAKO_TEST_KERNEL:-/var/cache/jubako-test-kernel}
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "ci_packages: not root on Debian: the VM tests will be skipped" >&2
  echo "$kernel"
  exit 0
fi
id jubakotest >/dev/null 2>&1 || useradd -m jubakotest  # for the tests as an ordinary user
export DEBIAN_FRONTEND=noninteractive
if ! command -v runsc >/dev/null || ! command -v qemu-system-x86_64 >/dev/null || ! ls "$kernel"/boot/vmlinuz-* >/dev/null 2>&1; then
  apt-get update -qq
fi
command -v runsc >/dev/null || apt-get install -y -qq --no-install-recommends runsc >/dev/null
if [ ! -d /usr/lib/python3/dist-packages/pandas ]; then  # for the tests of preloading: the sandbox sees the host's toolchain
  apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pandas >/dev/null
fi
command -v qemu-system-x86_64 >/dev/null || apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
if ! ls "$kernel"/boot/vmlinuz-* >/dev/null 2>&1; then
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ {print $2; exit}')
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  (cd "$work" && apt-get download -qq "$package" >/dev/null)
  mkdir -p "$kernel"
  dpkg -x "$work"/*.deb "$kernel"
fi
echo "$kernel"
