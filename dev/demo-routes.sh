# shellcheck shell=bash
#
# The part of `make demo` about model calls: agents of a pool call a route by OPENAI_BASE_URL. A model of the cluster answers, and
# a hosted one where it cannot; both are simulated servers, which break when they are told to. Sourced by dev/demo.sh, after
# dev/demo-agents.sh, whose namespace and Redis this part uses.

# The hosted provider is a process of this machine. The operator and the gateways know its address by `resolve`: there is no DNS.
readonly PROVIDER_NAME=provider.example
readonly PROVIDER_ADDRESS=127.$((64 + 2 * QUARTERMASTER_SLOT)).255.253

start_provider() {
  "${CARGO_TARGET_DIR:-target}/debug/quartermaster-dev" model-server openai --host "$PROVIDER_ADDRESS" --port 8000 \
    --model gpt-5.6-terra --api-key provider-key >"$DIRECTORY/provider.log" 2>&1 &
  # Ended by dev/demo.sh.
  # shellcheck disable=SC2034
  PROVIDER_PID=$!
}

# control ADDRESS METHOD PATH [BODY]: a call of the control endpoint of a simulated model server.
control() {
  local body=${4:-} status
  # In a shell of its own, which closes the connection.
  status=$(
    exec 7<>"/dev/tcp/$1/8000" || exit
    printf '%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' \
      "$2" "$3" "$1" "${#body}" "$body" >&7
    read -r _ status _ <&7
    printf '%s' "$status"
  ) || return
  [ "$status" = 200 ]
}

own_model() { kubectl -n "$AGENTS" get pods -l quartermaster.dev/inference-backend=own -o 'jsonpath={.items[0].status.podIP}'; }

# slow_down ADDRESS: a token takes as long as this at a real model, so that calls are under way when something changes.
slow_down() { control "$1" POST /control/settings '{"tokenMilliseconds": 20}'; }

# The server stays alive and ready. Every call of its model is cut off: half of them at once, the others by an error in place of the
# first content.
break_own_model() {
  control "$(own_model)" POST /control/faults '[
    {"match": {"path": "/v1/chat/completions", "containing": "even"}, "fault": {"break": {"at": "head", "how": "reset"}}},
    {"match": {"path": "/v1/chat/completions"}, "fault": {"errorEvent": {"after": 0, "refusal": "overloaded"}}}]'
}

heal_own_model() { control "$(own_model)" DELETE /control/faults; }

# ask FROM TO: adds tasks, each of which is a call of the route with an answer of 20 tokens.
ask() {
  local number parity=(even odd)
  for number in $(seq "$1" "$2"); do
    printf 'XADD calls * id call-%s milliseconds 10 model smart-router prompt "%s task %s [[tokens=20]]"\n' \
      "$number" "${parity[number % 2]}" "$number"
  done | redis >/dev/null
}

# answered_by BACKEND: how many calls a backend has answered, as the gateway told the agents.
answered_by() {
  redis xrange calls:done - + | awk -v backend="$1" '$0 == "backend" { getline; calls += $0 == backend } END { print calls + 0 }'
}

# answered_by_at_least BACKEND NUMBER
answered_by_at_least() { [ "$(answered_by "$1")" -ge "$2" ]; }

# all_answered NUMBER: whether so many calls were made, and each was answered to its end.
all_answered() {
  redis xrange calls:done - + | awk -v number="$1" '
    $0 == "call" { getline; calls += 1; failed += $0 != "answered" }
    END { exit !(calls == number && !failed) }'
}

# Prints the pods of the gateway, with how often each was restarted.
gateway_pods() {
  kubectl -n "$AGENTS" get pods -l quartermaster.dev/gateway --sort-by=.metadata.name -o \
    'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{"\n"}{end}'
}

same_gateway_pods() { [ "$(gateway_pods)" = "$1" ]; }

# is_live GENERATION: whether every replica of the gateway goes by this generation of the route.
is_live() {
  local programmed
  programmed=$(kubectl -n "$AGENTS" get modelroute smart-router -o \
    'jsonpath={range .status.conditions[?(@.type=="Programmed")]}{.status} {.observedGeneration}{end}') || return
  [ "$programmed" = "True $1" ]
}

route_says() { [ "$(kubectl -n "$AGENTS" get modelroute smart-router -o "jsonpath=$1")" = "$2" ]; }

# Whether the routing log has a call that the fallback answered.
logs_a_fallback() {
  kubectl -n "$AGENTS" logs -l quartermaster.dev/gateway --tail=-1 >"$DIRECTORY/routing.log" &&
    grep '"reason":"fallback after unavailable"' "$DIRECTORY/routing.log" >"$DIRECTORY/fallback.log"
}

show() { kubectl -n "$AGENTS" get modelroutes,inferencebackends,agentpools; }

# until_shown COMMAND...: shows routes, backends and pools every third second until the command succeeds, at most for two minutes.
until_shown() {
  local end=$((SECONDS + 120)) shown=0
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    if [ $((SECONDS - shown)) -ge 3 ]; then
      shown=$SECONDS
      show
    fi
    sleep 0.5
  done
}

make_route() {
  place_gateway "$AGENTS"
  kubectl -n "$AGENTS" create secret generic provider --from-literal=key=provider-key
  kubectl -n "$AGENTS" apply -f - <<YAML
apiVersion: quartermaster.dev/v1alpha1
kind: InferenceBackend
metadata: {name: own}
spec:
  vllm:
    model: Qwen/Qwen3-8B
    accelerator:
      products: [NVIDIA-Local]
      tolerations: [{key: dev.quartermaster.dev/local-node, operator: Exists}]
---
apiVersion: quartermaster.dev/v1alpha1
kind: InferenceBackend
metadata: {name: hosted}
spec:
  external:
    provider: OpenAI
    model: gpt-5.6-terra
    baseURL: http://$PROVIDER_NAME:8000/v1
    apiKeys: [{name: first, secretKeyRef: {name: provider, key: key}}]
---
apiVersion: quartermaster.dev/v1alpha1
kind: ModelRoute
metadata: {name: smart-router}
spec:
  backends: [{name: own}]
  fallback: [{name: hosted}]
  # The default leaves a backend that fails alone for 30s, which is long for a demonstration.
  circuitBreaker: {cooldown: 2s}
YAML
  apply_pools - <<'YAML'
apiVersion: quartermaster.dev/v1alpha1
kind: AgentPool
metadata: {name: caller}
spec:
  modelRoutes: [{name: smart-router}]
  template:
    spec:
      containers:
      - name: agent
        image: quartermaster-agent
        env:
        - name: REDIS_URL
          valueFrom: {configMapKeyRef: {name: redis, key: url}}
        - {name: AGENT_STREAM, value: calls}
        - {name: AGENT_GROUP, value: callers}
  maxReplicas: 6
  queues:
  - name: tasks
    redisStream: {url: "redis://redis:6379", stream: calls, group: callers}
  scaling:
    proportional: {tasksPerReplica: 5}
    pollInterval: 1s
    cooldown: 8s
    behavior:
      scaleUp: {policies: [{type: Pods, value: 6, periodSeconds: 5}]}
YAML
}

show_routes() {
  local pods by_own by_hosted generation

  say 'A route: a model of the cluster answers, and a hosted one where it cannot'
  start_provider
  make_route
  check 'the model of the cluster is ready' kubectl -n "$AGENTS" wait --for=condition=Ready inferencebackend/own --timeout=60s
  check 'the hosted one is ready' kubectl -n "$AGENTS" wait --for=condition=Ready inferencebackend/hosted --timeout=60s
  check 'the route is ready' kubectl -n "$AGENTS" wait --for=condition=Ready modelroute/smart-router --timeout=120s
  check 'its caller is ready' kubectl -n "$AGENTS" wait --for=condition=Ready agentpool/caller --timeout=60s
  check 'both backends can answer' within_a_minute route_says '{.status.readyBackends}' 2/2
  show
  pods=$(gateway_pods)
  printf '%s\n' "$pods"
  check 'a token takes its time at both' slow_down "$PROVIDER_ADDRESS"
  check 'at the model of the cluster as well' slow_down "$(own_model)"

  say 'Agents call it: they know OPENAI_BASE_URL, a key and the name smart-router'
  ask 1 60
  until_shown all_answered 60 || true
  check 'all calls are answered' all_answered 60
  check 'by the model of the cluster alone' answered_by_at_least own 60

  say 'Under load, the model of the cluster breaks: its pod stays ready, and every call of it fails'
  ask 61 360
  until_shown answered_by_at_least own 90 || true
  check 'it breaks' break_own_model
  until_shown answered_by_at_least hosted 40 || true
  check 'the hosted one answers in its place' answered_by_at_least hosted 40
  check 'it is healed' heal_own_model
  # What was under way when it was healed may end either way: what is asked from here on shows who answers.
  ask 361 480
  by_own=$(answered_by own)
  until_shown answered_by_at_least own $((by_own + 60)) || true
  check 'and answers again' answered_by_at_least own $((by_own + 60))
  until_shown all_answered 480 || true
  check 'no call has failed' all_answered 480
  check 'each was made exactly once' each_once calls 480
  check 'the routing log tells why the fallback answered' logs_a_fallback
  head -n 1 "$DIRECTORY/fallback.log" || true

  say 'An edit of the route is live without a restart: the hosted one answers alone'
  ask 481 600
  until_shown answered_by_at_least own $(($(answered_by own) + 10)) || true
  kubectl -n "$AGENTS" patch modelroute smart-router --type=merge --patch '{"spec": {"backends": [{"name": "hosted"}], "fallback": []}}'
  generation=$(kubectl -n "$AGENTS" get modelroute smart-router -o 'jsonpath={.metadata.generation}')
  check 'every replica of the gateway goes by it' within_a_minute is_live "$generation"
  until_shown all_answered 600 || true
  check 'no call has failed meanwhile' all_answered 600
  by_own=$(answered_by own) by_hosted=$(answered_by hosted)
  ask 601 630
  until_shown all_answered 630 || true
  check 'all calls are answered' all_answered 630
  check 'by the hosted one alone' [ "$(answered_by own) $(answered_by hosted)" = "$by_own $((by_hosted + 30))" ]
  check 'the pods of the gateway are the same, and none was restarted' same_gateway_pods "$pods"
  show
}
