#!/usr/bin/env bash
#
# Shows what Quartermaster makes of examples/ on a control plane with fake GPU nodes, and checks it. Run by `make demo`,
# which starts the control plane and stops it again. The operator runs under its own account.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NAMESPACE=demo
readonly DIRECTORY=$QUARTERMASTER_DIRECTORY
readonly OPERATOR=${CARGO_TARGET_DIR:-target}/debug/quartermaster
readonly DEVELOPMENT=${CARGO_TARGET_DIR:-target}/debug/quartermaster-dev
PASSED=0
FAILED=0

kubectl() { "$QUARTERMASTER_KUBECTL" "$@"; }

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# check WHAT COMMAND...: counts whether the command succeeds.
check() {
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then
    PASSED=$((PASSED + 1))
    printf '  ok      %s\n' "$what"
  else
    FAILED=$((FAILED + 1))
    printf '  FAILED  %s\n' "$what"
  fi
}

# shows NAME PATH WANTED: whether a field of a backend says what is wanted, a pattern of the shell. A kubectl that fails
# shows nothing.
shows() {
  local value
  value=$(kubectl -n "$NAMESPACE" get inferencebackend "$1" -o "jsonpath=$2") || return
  # shellcheck disable=SC2053 # The right side is meant to be a pattern.
  [[ $value == $3 ]]
}

# Prints the backend of each pod and the product of the node that it was placed on, in order; fails where a pod has no node.
placements() {
  local pods backend node product
  pods=$(kubectl -n "$NAMESPACE" get pods --sort-by=.metadata.name \
    -o 'jsonpath={range .items[*]}{.metadata.labels.quartermaster\.dev/inference-backend} {.spec.nodeName}{"\n"}{end}') || return
  while read -r backend node; do
    [ -n "$node" ] || return
    product=$(kubectl get node "$node" -o 'jsonpath={.metadata.labels.nvidia\.com/gpu\.product}') || return
    printf '%s on %s\n' "$backend" "$product"
  done <<<"$pods"
}

# placed WANTED: whether exactly these pods exist, each on a node of the product that was chosen for it.
placed() {
  local placements
  placements=$(placements) || return
  [ "$placements" = "$1" ]
}

without_pods() {
  local pods
  pods=$(kubectl -n "$NAMESPACE" get pods -l "quartermaster.dev/inference-backend=$1" -o name) || return
  [ -z "$pods" ]
}

ready() { kubectl -n "$NAMESPACE" wait --for=condition=Ready "inferencebackend/$1" --timeout=60s; }

# within_a_minute COMMAND...: whether it succeeds before a minute is over.
within_a_minute() {
  local end=$((SECONDS + 60))
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 1
  done
}

# Whether the operator answers /readyz with 200. It listens on a port that the system chose, which its first line tells, so
# that several demonstrations can run at once; it is asked by bash itself, which needs no curl.
operator_is_ready() {
  local port status
  port=$(sed -n 's/.*admin=Some([0-9.]*:\([0-9]*\)).*/\1/p' "$DIRECTORY/operator.log" | head -n 1)
  [ -n "$port" ] || return
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  read -r status <&3
  exec 3>&-
  [[ $status == 'HTTP/1.'[01]' 200 '* ]]
}

finish() {
  local code=$?
  if [ -n "${OPERATOR_PID:-}" ] && kill "$OPERATOR_PID" 2>/dev/null; then
    wait "$OPERATOR_PID" || true
  fi
  [ "$code" -eq 0 ] || FAILED=$((FAILED + 1))
  if [ "$FAILED" -gt 0 ] && [ -f "$DIRECTORY/operator.log" ]; then
    say 'The end of the operator'\''s log'
    tail -n 30 "$DIRECTORY/operator.log"
  fi
  printf '\n%d passed, %d failed\n' "$PASSED" "$FAILED"
  [ "$FAILED" -eq 0 ] || exit $((code > 0 ? code : 1))
}
trap finish EXIT
# Without these the exit code would be 0 in finish, and the count would say that nothing failed.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say 'The nodes: 8xH100 twice, L4, A100 whole and in MIG slices, a time-sliced T4'
kubectl get nodes -o custom-columns='NODE:.metadata.name,PRODUCT:.metadata.labels.nvidia\.com/gpu\.product,GPUS:.status.allocatable.nvidia\.com/gpu,MIG:.status.allocatable.nvidia\.com/mig-1g\.10gb'

say 'Installing: definitions, rules, and the operator under its own account'
kubectl apply --server-side -f crds/
kubeconfig=$("$DEVELOPMENT" account quartermaster-system quartermaster --rules deploy/rbac.yaml)
# The token of the examples is no token, and a hub that answers would refuse it: through a proxy that is not there nobody is
# asked, and the catalogue suffices.
printf '%s\n' 'admin: {listen: "127.0.0.1:0"}' 'egressProxy: {url: "http://127.0.0.1:9"}' >"$DIRECTORY/operator.yaml"
KUBECONFIG=$kubeconfig "$OPERATOR" run --configuration "$DIRECTORY/operator.yaml" --namespace quartermaster-system \
  --log-format text >"$DIRECTORY/operator.log" 2>&1 &
OPERATOR_PID=$!

say 'Applying examples/'
kubectl create namespace "$NAMESPACE"
kubectl -n "$NAMESPACE" apply -f examples/backends/

say 'What was chosen'
check 'Llama-3.3-70B is ready' ready llama-70b
check 'the small model is ready' ready qwen3-4b
check 'the FP8 mixture of experts is ready' ready qwen3-235b
kubectl -n "$NAMESPACE" get inferencebackends -o wide

say 'Why'
kubectl -n "$NAMESPACE" get inferencebackends -o \
  'jsonpath={range .items[?(@.status.sizing)]}{.metadata.name}{": "}{.status.sizing.derivation}{"\n"}{end}'

say 'Where the scheduler placed the pods'
kubectl -n "$NAMESPACE" get pods -o custom-columns='POD:.metadata.name,NODE:.spec.nodeName,GPUS:.spec.containers[0].resources.limits.nvidia\.com/gpu'

say 'Checks'
check 'Llama-3.3-70B is spread over 4 H100' shows llama-70b '{.status.summary.gpus}' '4xH100* TP4'
check 'the small model takes one L4, though larger ones are idle' shows qwen3-4b '{.status.summary.gpus}' '1xL4 TP1'
check 'the mixture of experts gets a size that its FP8 blocks allow' shows qwen3-235b '{.status.sizing.tensorParallelSize}' '4'
check 'each has one pod, on a node with the accelerators that were chosen' placed 'llama-70b on NVIDIA-H100-80GB-HBM3
qwen3-235b on NVIDIA-A100-SXM4-80GB
qwen3-4b on NVIDIA-L4'
check 'the context of the hosted model is known' shows claude '{.status.contextLength}' '1000000'
# Its key is no key, and the provider is not reached either.
check 'the hosted model is not ready' shows claude '{.status.conditions[?(@.type=="Ready")].status}' False
check 'and it is said why' shows claude '{.status.conditions[?(@.type=="Ready")].reason}' \
  '@(Unauthorized|HealthUnknown|Unreachable|ProviderError|TLSError)'

say 'A model that no node can hold is refused before a pod exists, with fixes that work'
kubectl -n "$NAMESPACE" apply -f - <<'YAML'
apiVersion: quartermaster.dev/v1alpha1
kind: InferenceBackend
metadata: {name: too-large}
spec:
  vllm:
    model: meta-llama/Llama-3.1-405B-Instruct
    huggingFace: {tokenSecretKeyRef: {name: hugging-face, key: token}}
YAML
check 'it is refused' kubectl -n "$NAMESPACE" wait --for=condition=Stalled inferencebackend/too-large --timeout=60s
kubectl -n "$NAMESPACE" get inferencebackend too-large -o 'jsonpath={.status.conditions[?(@.type=="Stalled")].message}{"\n"}'
check 'the reason is DoesNotFit' shows too-large '{.status.conditions[?(@.type=="Ready")].reason}' DoesNotFit
check 'no pod exists for it' without_pods too-large
# The definition is served a moment after it was applied, and the operator looks again after a quarter of a minute.
check 'the operator is ready' within_a_minute operator_is_ready
