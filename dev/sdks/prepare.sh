#!/usr/bin/env bash
# Prepares a Python environment with what an agent calls models by: SDKs, or a framework.
#
# Usage: dev/sdks/prepare.sh NAME     prepares that of dev/sdks/NAME.txt if needed, and prints the path of its Python
#
# The environment is ${XDG_CACHE_HOME:-$HOME/.cache}/quartermaster/python-NAME. A finished one is kept until this script or
# NAME.txt changes; an unfinished one is removed and made anew. Exit code 2: something is missing on this machine, and the
# message says what.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=${1:?"usage: dev/sdks/prepare.sh NAME"}
requirements=$here/$name.txt
environment=${XDG_CACHE_HOME:-$HOME/.cache}/quartermaster/python-$name
stamp=$environment/prepared

say() { echo "python-$name: $*" >&2; }
[ -f "$requirements" ] || { say "there is no $requirements"; exit 2; }
command -v flock >/dev/null || { say "flock is missing (Debian and Ubuntu: apt-get install util-linux)"; exit 2; }
# The same Python as vLLM's parser: it says what is missing where there is none.
python=$("$here/../vllm/prepare.sh" --python)
version=$("$python" -c 'import platform; print(platform.python_version())')

mkdir -p "$(dirname "$environment")"
exec 9>"$environment.lock"
if ! flock --nonblock 9; then
    say "another process is preparing it; waiting"
    flock 9
fi
fingerprint="$version $(cat "$here/prepare.sh" "$requirements" | sha256sum | cut -d ' ' -f 1)"
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$fingerprint" ] && [ -x "$environment/bin/python" ]; then
    echo "$environment/bin/python"
    exit 0
fi

rm -rf "$environment"
say "$(grep -c '==' "$requirements") packages with Python $version, into $environment"
"$python" -m venv "$environment"
# What is installed is what the file says, and nothing is built. The lock must not outlive this process in another one's hands.
"$environment/bin/python" -m pip install --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: --quiet \
    --requirement "$requirements" >&2 9>&-
echo "$fingerprint" >"$stamp"
say "ready"
echo "$environment/bin/python"
