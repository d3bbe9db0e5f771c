# shellcheck shell=bash
#
# The part of `make demo` about agents on a queue: a real Redis, real processes. Sourced by dev/demo.sh.

readonly AGENTS=agents
# The operator knows this address by dev/chart-values.yaml's `resolve`, for there is no DNS.
readonly REDIS_ADDRESS=127.$((64 + 2 * QUARTERMASTER_SLOT)).255.254

redis() { redis-cli -h "$REDIS_ADDRESS" "$@"; }

redis_answers() { [ "$(redis ping)" = PONG ]; }

start_redis() {
  # Ended by dev/demo.sh.
  # shellcheck disable=SC2034
  redis-server --bind "$REDIS_ADDRESS" --port 6379 --save '' --appendonly no --dir "$DIRECTORY" \
    --logfile "$DIRECTORY/redis.log" >/dev/null &
  REDIS_PID=$!
  check 'Redis answers' within_a_minute redis_answers
}

# add STREAM FROM TO LEAST MOST: adds tasks that take between LEAST and MOST milliseconds.
add() {
  local number
  for number in $(seq "$2" "$3"); do
    printf 'XADD %s * id task-%s milliseconds %s\n' "$1" "$number" "$(($4 + (number * 7919) % ($5 - $4)))"
  done | redis >/dev/null
}

# apply_pools FILE: applies pools, with their agents on the node that really runs pods.
apply_pools() {
  local placed='{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"local"},
    "tolerations":[{"key":"dev.quartermaster.dev/local-node","operator":"Exists"}]}}}}'
  kubectl patch --local --type=merge --patch "$placed" --filename "$1" --output json | kubectl -n "$AGENTS" apply -f -
}

# pool NAME FIELD: a field of the status of a pool.
pool() { kubectl -n "$AGENTS" get agentpool "$1" -o "jsonpath={.status.$2}"; }

has_agents() { [ "$(pool "$1" replicas)" -ge "$2" ]; }

rests() { [ "$(pool "$1" replicas)" = 0 ] && [ "$(pool "$1" desiredReplicas)" = 0 ]; }

all_done() { [ "$(redis xlen "$1:done")" -ge "$2" ]; }

# each_once STREAM NUMBER: whether exactly so many tasks were done, each once, by the first agent that got it.
each_once() {
  redis xrange "$1:done" - + | awk -v number="$2" '
    $0 == "task" { getline; records += 1; if (!seen[$0]++) tasks += 1 }
    $0 == "delivery" { getline; if ($0 != 1) again += 1 }
    END { exit !(records == number && tasks == number && !again) }'
}

scaled_in_meanwhile() {
  local pool=$1 change
  # The changes of the pool, as from-to; one that goes down and not to zero was made while there was work.
  for change in $(kubectl -n "$AGENTS" get agentpool "$pool" -o 'jsonpath={range .status.decisions[*]}{.from}-{.to} {end}'); do
    [ "${change#*-}" -lt "${change%-*}" ] && [ "${change#*-}" -gt 0 ] && return
  done
  return 1
}

# watched COMMAND...: shows the pools every other second until the command succeeds, at most for two minutes.
watched() {
  local end=$((SECONDS + 120)) shown=0
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    if [ $((SECONDS - shown)) -ge 2 ]; then
      shown=$SECONDS
      kubectl -n "$AGENTS" get agentpools
    fi
    sleep 0.5
  done
}

show_agents() {
  say 'A pool of agents on a Redis stream, without a task'
  kubectl create namespace "$AGENTS"
  kubectl -n "$AGENTS" create configmap redis --from-literal="url=redis://$REDIS_ADDRESS:6379/0"
  apply_pools examples/pools/coder.yaml
  check 'the pool is ready' kubectl -n "$AGENTS" wait --for=condition=Ready agentpool/coder --timeout=60s
  kubectl -n "$AGENTS" get agentpools

  say '200 tasks arrive'
  add tasks 1 200 200 1500
  watched all_done tasks 200 || true
  check 'all tasks are done' all_done tasks 200
  watched rests coder || true
  kubectl -n "$AGENTS" get agentpools
  check 'the agents are gone again' rests coder
  check 'agents were ended while there was work' scaled_in_meanwhile coder
  check 'each task was done exactly once' each_once tasks 200
  say 'Why there were as many'
  kubectl -n "$AGENTS" get agentpool coder -o 'jsonpath={range .status.decisions[*]}{.time} {.from} -> {.to}: {.reason}{"\n"}{end}'

  say 'A burst for two pools on one queue: the critical one is filled first'
  apply_pools examples/pools/interactive-and-batch.yaml
  check 'both pools are ready' kubectl -n "$AGENTS" wait --for=condition=Ready agentpool/interactive agentpool/batch --timeout=60s
  add mixed 1 12 800 1500
  check 'a few tasks are for the critical pool alone' within_a_minute has_agents interactive 1
  check 'and none is for the other' rests batch
  add mixed 13 72 800 1500
  check 'what it cannot take is for the other' within_a_minute has_agents batch 1
  watched all_done mixed 72 || true
  kubectl -n "$AGENTS" get agentpools
  check 'all tasks of the burst are done' all_done mixed 72
  watched rests batch || true
  check 'each of them exactly once' each_once mixed 72
}
