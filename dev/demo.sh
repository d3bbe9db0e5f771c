#!/usr/bin/env bash
#
# Shows a control plane with fake GPU nodes: what the scheduler can place pods on.

set -euo pipefail

kubectl=$QUARTERMASTER_KUBECTL
"$kubectl" get nodes -o custom-columns='NODE:.metadata.name,PRODUCT:.metadata.labels.nvidia\.com/gpu\.product,GPUS:.status.allocatable.nvidia\.com/gpu'
