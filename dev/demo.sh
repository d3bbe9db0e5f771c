#!/usr/bin/env bash
#
# Shows what Quartermaster makes of examples/ on a control plane with fake GPU nodes, and checks it. Run by `make demo`,
# which starts the control plane and stops it again. The operator runs under its own account.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NAMESPACE=demo
readonly ADMIN=127.0.0.1:18473
readonly DIRECTORY=$QUARTERMASTER_DIRECTORY
readonly OPERATOR=${CARGO_TARGET_DIR:-target}/debug/quartermaster
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

# shows NAME PATH WANTED: whether a field of a backend says what is wanted, a pattern of the shell.
shows() {
  local value
  value=$(kubectl -n "$NAMESPACE" get inferencebackend "$1" -o "jsonpath=$2")
  # shellcheck disable=SC2053 # The right side is meant to be a pattern.
  [[ $value == $3 ]]
}

on_node() {
  local node
  node=$(kubectl -n "$NAMESPACE" get pods -l "quartermaster.dev/inference-backend=$1" -o 'jsonpath={.items[0].spec.nodeName}')
  # shellcheck disable=SC2053
  [[ $node == $2 ]]
}

ready() { kubectl -n "$NAMESPACE" wait --for=condition=Ready "inferencebackend/$1" --timeout=60s; }

finish() {
  local code=$?
  [ -z "${OPERATOR_PID:-}" ] || { kill "$OPERATOR_PID" 2>/dev/null && wait "$OPERATOR_PID" || true; }
  [ "$code" -eq 0 ] || FAILED=$((FAILED + 1))
  if [ "$FAILED" -gt 0 ] && [ -f "$DIRECTORY/operator.log" ]; then
    say 'The end of the operator'\''s log'
    tail -n 30 "$DIRECTORY/operator.log"
  fi
  printf '\n%d passed, %d failed\n' "$PASSED" "$FAILED"
  [ "$FAILED" -eq 0 ] || exit 1
}
trap finish EXIT

say 'The nodes: 8xH100 twice, L4, A100 whole and in MIG slices, a time-sliced T4'
kubectl get nodes -o custom-columns='NODE:.metadata.name,PRODUCT:.metadata.labels.nvidia\.com/gpu\.product,GPUS:.status.allocatable.nvidia\.com/gpu,MIG:.status.allocatable.nvidia\.com/mig-1g\.10gb'

say 'Installing: definitions, rules, and the operator under its own account'
kubectl apply --server-side -f crds/
kubeconfig=$(cargo run --quiet --locked -p quartermaster-dev -- account quartermaster-system quartermaster --rules deploy/rbac.yaml)
printf 'admin: {listen: "%s"}\n' "$ADMIN" >"$DIRECTORY/operator.yaml"
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
check 'its pod is on an H100 node' on_node llama-70b 'h100-*'
check 'the small model takes one L4, though larger ones are idle' shows qwen3-4b '{.status.summary.gpus}' '1xL4 TP1'
check 'its pod is on the L4 node' on_node qwen3-4b 'l4-*'
check 'the mixture of experts gets a size that its FP8 blocks allow' shows qwen3-235b '{.status.sizing.tensorParallelSize}' '4'
check 'every pod was placed' test -z "$(kubectl -n "$NAMESPACE" get pods --field-selector=status.phase=Pending -o name)"
check 'the context of the hosted model is known' shows claude '{.status.contextLength}' '1000000'
check 'the health of the hosted model is shown for what it is' shows claude '{.status.conditions[?(@.type=="Ready")].reason}' '[A-Z]*'

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
check 'no pod exists for it' test -z "$(kubectl -n "$NAMESPACE" get pods -l quartermaster.dev/inference-backend=too-large -o name)"
check 'the operator is healthy' curl --silent --fail "http://$ADMIN/readyz"
