#!/usr/bin/env bash
# Prepares a Python environment in which vLLM's own argument parser and configuration classes run without a GPU.
#
# Usage: dev/vllm/prepare.sh            prepares it if needed, and prints the path of its Python on standard output
#        PYTHON=python3.12 dev/vllm/prepare.sh
#        dev/vllm/prepare.sh --python   prints the Python that it would be made with; what bootstrap.sh asks
#
# The environment is ${XDG_CACHE_HOME:-$HOME/.cache}/quartermaster/vllm-0.33.0. All comes from the Python package
# index. A finished environment is kept until this script or requirements.txt changes; an unfinished one (interrupted,
# disk full) is removed and made anew. Exit code 2: something is missing on this machine, and the message says what.
set -euo pipefail

vllm_version=0.33.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environment="${XDG_CACHE_HOME:-$HOME/.cache}/quartermaster/vllm-$vllm_version"
stamp="$environment/prepared"
# Measured: 3.9 GB when finished, 4.9 GB before the unused libraries are removed, and the downloads beside it.
disk_needed_megabytes=8000

say() { echo "vllm-$vllm_version: $*" >&2; }
missing() { say "$*"; exit 2; }

# --- What the machine must have ---------------------------------------------------------------------------------

# vLLM's published images run Python 3.12, so that one is tried first; its wheel takes 3.11 to 3.14.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.12 python3.13 python3.11 python3.14 python3}; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}
python=$(find_python) || missing "no Python 3.11 to 3.14 with the module venv among:" \
    "${PYTHON:-python3.12 python3.13 python3.11 python3.14 python3}" \
    "(Debian and Ubuntu: apt-get install python3 python3-venv)"
if [ "${1:-}" = --python ]; then
    echo "$python"
    exit 0
fi
if [ "$(uname -s)" != Linux ] || [ "$(uname -m)" != x86_64 ]; then
    missing "requirements.txt is pinned for Linux on x86_64; this is $(uname -s) on $(uname -m)"
fi
command -v flock >/dev/null || missing "flock is missing (Debian and Ubuntu: apt-get install util-linux)"
python_version=$("$python" -c 'import platform; print(platform.python_version())')

mkdir -p "$(dirname "$environment")"
exec 9>"$environment.lock"
if ! flock --nonblock 9; then
    say "another process is preparing it; waiting"
    flock 9
fi

# --- Is it there already? ---------------------------------------------------------------------------------------

fingerprint="$python_version $(cat "$here/prepare.sh" "$here/requirements.txt" | sha256sum | cut -d ' ' -f 1)"
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$fingerprint" ] && [ -x "$environment/bin/python" ]; then
    echo "$environment/bin/python"
    exit 0
fi

rm -rf "$environment"
disk_free_megabytes=$(df --output=avail --block-size=1M "$(dirname "$environment")" | tail -n 1 | tr -d ' ')
if [ "$disk_free_megabytes" -lt "$disk_needed_megabytes" ]; then
    missing "needs $disk_needed_megabytes MB free under $(dirname "$environment"), there are $disk_free_megabytes MB"
fi

# --- Make it ----------------------------------------------------------------------------------------------------

say "[1/4] virtual environment with Python $python_version in $environment"
"$python" -m venv "$environment"
# Downloads stay on the same disk, whose space was just checked; /tmp may be small.
mkdir "$environment/downloads"
export TMPDIR="$environment/downloads" PIP_DISABLE_PIP_VERSION_CHECK=1

# Says every 10 seconds how much is there: a wheel of several hundred megabytes is downloaded in silence.
report_size() {
    local start=$SECONDS
    while sleep 10 >/dev/null 2>&1; do
        say "    $((SECONDS - start)) s: $(du -sm "$environment/downloads" 2>/dev/null | cut -f 1) MB of downloads," \
            "$(du -sm "$environment" 2>/dev/null | cut -f 1) MB in all"
    done
}
reporter=
stop_reporter() {
    [ -z "$reporter" ] || kill "$reporter" 2>/dev/null || true
    reporter=
}
trap stop_reporter EXIT

install() {
    # Without the lock and the answer, which must end with this process and not with the last report.
    report_size 9>&- >/dev/null &
    reporter=$!
    "$environment/bin/python" -m pip "$@" --no-cache-dir --no-deps --only-binary :all: --progress-bar off 2>&1 |
        tee "$environment/pip.log" |
        awk '/^ *Downloading/ { count++; print "    " count ": " $2 " " $3 " " $4; fflush() }
             /^Installing collected/ { print "    installing " count " packages"; fflush() }
             /^ERROR|^error/ { print "    " $0; fflush() }' >&2 ||
        { say "pip failed; its last lines:"; tail -n 15 "$environment/pip.log" >&2; exit 1; }
    stop_reporter
}

say "[2/4] $(grep -c '==' "$here/requirements.txt") packages, about 2.4 GB to download"
install install --requirement "$here/requirements.txt"

say "[3/4] the Python part of vLLM's wheel, 340 MB to download"
install download "vllm==$vllm_version" --dest "$environment/downloads"
"$environment/bin/python" - "$environment/downloads" <<'PYTHON'
import pathlib
import sys
import sysconfig
import zipfile

[wheel] = pathlib.Path(sys.argv[1]).glob("vllm-*.whl")
# Compiled kernels, their headers and the Rust front end are 90 % of the wheel; without a GPU nothing loads them.
unused_suffixes = {".so", ".h", ".hpp", ".cuh", ".cu", ".inl"}
with zipfile.ZipFile(wheel) as archive:
    members = [
        name
        for name in archive.namelist()
        if pathlib.PurePosixPath(name).suffix not in unused_suffixes and name != "vllm/vllm-rs"
    ]
    archive.extractall(sysconfig.get_paths()["purelib"], members)
PYTHON

# libcudnn.so.9 loads its engines when they are first used, NVRTC its second compiler, Nsight its counters: never here.
nvidia=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"] + "/nvidia")')
find "$nvidia" \( -name 'libcudnn_*.so*' -o -name 'libnvrtc.alt.so*' -o -name 'libnvrtc-builtins*' \
    -o -name 'libnvperf_*' -o -name '*.bc' -o -name '*.a' \) -delete
rm -rf "$environment/downloads" "$environment/pip.log"

say "[4/4] checking that the parser can be built (compiles the Python files, up to a minute)"
export VLLM_TARGET_DEVICE=cpu VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR
"$environment/bin/python" -W ignore - >/dev/null 2>&1 <<'PYTHON' ||
from vllm.entrypoints.common.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
PYTHON
    { say "the parser cannot be built; run this to see why:"
      say "VLLM_TARGET_DEVICE=cpu $environment/bin/python -c 'import vllm.entrypoints.common.cli_args'"; exit 1; }

echo "$fingerprint" >"$stamp"
say "ready, $(du -sm "$environment" | cut -f 1) MB"
echo "$environment/bin/python"
