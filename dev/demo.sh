#!/usr/bin/env bash
#
# Installs Quartermaster with its charts on a control plane with fake GPU nodes, shows how the quickstart spends a budget and
# what is made of the other examples, and checks it. Run by `make demo`, which starts the control plane and stops it again. The
# operator runs as two pods of the local node, under its own account. Each section is a function; the last lines say in
# which order they are shown.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NAMESPACE=demo
readonly OPERATORS=quartermaster-system
readonly DIRECTORY=$QUARTERMASTER_DIRECTORY
HELM=$(dev/bootstrap.sh where helm)
readonly HELM=${HELM#helm }
PASSED=0
FAILED=0
# Where headings, checks and what is shown are written beside.
LOG=/dev/null

# Nothing of Helm's is left on the machine.
export HELM_CACHE_HOME=$QUARTERMASTER_DIRECTORY/helm HELM_CONFIG_HOME=$QUARTERMASTER_DIRECTORY/helm \
  HELM_DATA_HOME=$QUARTERMASTER_DIRECTORY/helm

kubectl() { "$QUARTERMASTER_KUBECTL" "$@"; }
helm() { "$HELM" --namespace "$OPERATORS" "$@"; }

say() {
  printf '\n\033[1m%s\033[0m\n' "$*"
  printf '\n%s\n' "$*" >>"$LOG"
}

# check WHAT COMMAND...: counts whether the command succeeds.
check() {
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then
    PASSED=$((PASSED + 1))
    printf '  ok      %s\n' "$what" | tee -a "$LOG"
  else
    FAILED=$((FAILED + 1))
    printf '  FAILED  %s\n' "$what" | tee -a "$LOG"
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

# Prints of each pod of the operator where it runs, as whom, and whether it is ready.
operators() {
  kubectl -n "$OPERATORS" get pods -l app.kubernetes.io/name=quartermaster -o \
    'jsonpath={range .items[*]}{.spec.nodeName} {.spec.serviceAccountName} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}'
}

# Whether the operator runs as two pods of the local node under its own account, and both are ready.
two_operators() { [ "$(operators)" = $'local quartermaster True\nlocal quartermaster True' ]; }

# Whether the lease is held by one of the operator's pods.
one_leads() {
  local holder
  holder=$(kubectl -n "$OPERATORS" get lease quartermaster -o 'jsonpath={.spec.holderIdentity}') || return
  # The identity is the name of the pod, and a part that a restarted process does not share.
  [ -n "$holder" ] && kubectl -n "$OPERATORS" get pod "${holder%_*}"
}

# place_gateway NAMESPACE: the pods of its gateway are to run on the node that runs them for real.
place_gateway() {
  kubectl -n "$1" create configmap quartermaster-gateway --from-literal=nodeSelector='{kubernetes.io/hostname: local}' \
    --from-literal=tolerations='[{key: dev.quartermaster.dev/local-node, operator: Exists}]'
}

finish() {
  local code=$?
  [ -z "${REDIS_PID:-}" ] || kill "$REDIS_PID" 2>/dev/null || true
  [ -z "${PROVIDER_PID:-}" ] || kill "$PROVIDER_PID" 2>/dev/null || true
  [ -z "${CURVE_PID:-}" ] || kill "$CURVE_PID" 2>/dev/null || true
  [ "$code" -eq 0 ] || FAILED=$((FAILED + 1))
  if [ "$FAILED" -gt 0 ]; then
    say 'The end of the log of each operator'
    kubectl -n "$OPERATORS" logs -l app.kubernetes.io/name=quartermaster --tail=30 --prefix || true
    say 'The end of the log of each gateway'
    kubectl -n "$QUICKSTART" logs -l quartermaster.dev/gateway --tail=30 --prefix || true
    kubectl -n "$AGENTS" logs -l quartermaster.dev/gateway --tail=30 --prefix || true
  fi
  printf '\n%d passed, %d failed\n' "$PASSED" "$FAILED"
  [ "$FAILED" -eq 0 ] || exit $((code > 0 ? code : 1))
}
trap finish EXIT
# Without these the exit code would be 0 in finish, and the count would say that nothing failed.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# shellcheck source=dev/demo-agents.sh
source dev/demo-agents.sh
# shellcheck source=dev/demo-sprint.sh
source dev/demo-sprint.sh
# shellcheck source=dev/demo-routes.sh
source dev/demo-routes.sh

show_nodes() {
  say 'The nodes: 8xH100 twice, L4, A100 whole and in MIG slices, a time-sliced T4; and one on which pods really run'
  kubectl get nodes -o custom-columns='NODE:.metadata.name,PRODUCT:.metadata.labels.nvidia\.com/gpu\.product,GPUS:.status.allocatable.nvidia\.com/gpu,MIG:.status.allocatable.nvidia\.com/mig-1g\.10gb'
}

show_installation() {
  say 'Installing the definitions, and two replicas of the operator, with Helm'
  # The charts say what comes next, which is what this script does.
  helm install quartermaster-crds charts/quartermaster-crds --create-namespace --hide-notes --wait --timeout 120s
  helm install quartermaster charts/quartermaster --values dev/chart-values.yaml --hide-notes --wait --timeout 120s \
    --set "configuration.destinations.resolve.redis\\.$AGENTS\\.svc=$REDIS_ADDRESS" \
    --set "configuration.destinations.resolve.redis\\.$QUICKSTART\\.svc=$REDIS_ADDRESS" \
    --set "configuration.destinations.resolve.${PROVIDER_NAME//./\\.}=$PROVIDER_ADDRESS" \
    --set "configuration.egressProxy.noProxy={$PROVIDER_NAME}"
  kubectl -n "$OPERATORS" get pods -o wide
  check 'two replicas run as pods of the local node under their own account' two_operators
  check 'one of them leads' within_a_minute one_leads
}

show_backends() {
  say 'Applying examples/'
  kubectl create namespace "$NAMESPACE"
  kubectl -n "$NAMESPACE" apply -f examples/backends/

  say 'What was chosen'
  check 'Llama-3.3-70B is ready' ready llama-70b
  check 'the small model is ready' ready qwen3-4b
  check 'the FP8 mixture of experts is ready' ready qwen3-235b
  check 'the model that Ollama serves is ready' ready qwen3-tiny
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
  check 'what Ollama serves runs on CPUs' shows qwen3-tiny '{.status.summary.gpus}' CPU
  check 'each has one pod, on a node with the accelerators that were chosen' placed 'llama-70b on NVIDIA-H100-80GB-HBM3
qwen3-235b on NVIDIA-A100-SXM4-80GB
qwen3-4b on NVIDIA-L4
qwen3-tiny on '
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
  check 'the operator is ready' two_operators
}

show_nodes
show_installation
start_redis
show_sprint
show_backends
show_agents
show_routes
