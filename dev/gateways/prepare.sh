#!/usr/bin/env bash
# Brings a gateway that ours is measured beside, into a Python environment of its own.
#
# Usage: dev/gateways/prepare.sh envoy|litellm     prepares it if needed, and prints the path of its program on standard output
#
# Everything comes from the Python package index: the versions and hashes are those of <name>.txt, and nothing else is installed.
# The environment is ${XDG_CACHE_HOME:-$HOME/.cache}/quartermaster/gateways-<name>. A finished one is kept until this script or
# its list changes; an unfinished one is removed and made anew. Exit code 2: something is missing on this machine, and the message
# says what.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=${1:-}
case $name in
    envoy) megabytes=400 ;;
    litellm) megabytes=2000 ;;
    *) echo "usage: ${BASH_SOURCE[0]} envoy|litellm" >&2; exit 2 ;;
esac
environment="${XDG_CACHE_HOME:-$HOME/.cache}/quartermaster/gateways-$name"
stamp="$environment/prepared"

say() { echo "$name: $*" >&2; }
missing() { say "$*"; exit 2; }

# Prints where the program is.
program() {
    case $name in
        # The command of the package is a Python process around this one.
        envoy) "$environment/bin/python" -c 'import importlib.util, pathlib
print(pathlib.Path(importlib.util.find_spec("envoy").origin).parent / "_bin" / "envoy")' ;;
        litellm) echo "$environment/bin/litellm" ;;
    esac
}

if [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ]; then
    missing "$name.txt is pinned for Linux on x86_64; this is $(uname -s) on $(uname -m)"
fi
command -v flock >/dev/null || missing "flock is missing (Debian and Ubuntu: apt-get install util-linux)"
python=$(PYTHON="${PYTHON:-python3.12 python3.13 python3.11 python3}" "$here/../vllm/prepare.sh" --python)
python_version=$("$python" -c 'import platform; print(platform.python_version())')

mkdir -p "$(dirname "$environment")"
exec 9>"$environment.lock"
if ! flock --nonblock 9; then
    say "another process is preparing it; waiting"
    flock 9
fi

fingerprint="$python_version $(cat "$here/prepare.sh" "$here/$name.txt" | sha256sum | cut -d ' ' -f 1)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$fingerprint" ] || [ ! -x "$environment/bin/python" ]; then
    rm -rf "$environment"
    free=$(df --output=avail --block-size=1M "$(dirname "$environment")" | tail -n 1 | tr -d ' ')
    [ "$free" -ge "$megabytes" ] ||
        missing "needs $megabytes MB free under $(dirname "$environment"), there are $free MB"
    say "installing $(grep -c '==' "$here/$name.txt") packages with Python $python_version into $environment"
    "$python" -m venv "$environment"
    # Downloads stay on the same disk, whose space was just checked; /tmp may be small.
    mkdir "$environment/downloads"
    TMPDIR="$environment/downloads" PIP_DISABLE_PIP_VERSION_CHECK=1 "$environment/bin/python" -m pip install \
        --quiet --no-cache-dir --no-deps --only-binary :all: --require-hashes --requirement "$here/$name.txt" >&2
    rm -rf "$environment/downloads"
    echo "$fingerprint" >"$stamp"
    say "ready, $(du -sm "$environment" | cut -f 1) MB"
fi
program
