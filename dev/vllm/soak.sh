#!/usr/bin/env bash
# Runs command lines of `vllm serve` through vLLM's own parser and configuration classes, without a GPU.
#
# Usage: dev/vllm/soak.sh FILE      FILE as dev/vllm/check_commands.py reads it
#
# Prepares the environment first, which takes minutes and gigabytes the first time (dev/vllm/prepare.sh). Prints one JSON
# object a command line. Exit code: 0 if each had the expected outcome, 1 if not, 2 if something is missing here.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 1 ] || { echo "usage: ${BASH_SOURCE[0]} FILE" >&2; exit 2; }
python=$("$here/prepare.sh")
exec "$python" "$here/check_commands.py" "$1"
