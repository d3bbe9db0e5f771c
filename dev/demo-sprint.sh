# shellcheck shell=bash
#
# The part of `make demo` that is the whole loop: tasks arrive, agents scale up and spend a budget, which warns, downgrades,
# pauses and blocks, until its next period begins and everything goes on. What runs is examples/quickstart/, as it stands there
# but for the nodes and for when the sprint began. Agents, gateways and the operator are what they are anywhere; the model
# servers are simulated, and count for themselves what they make. No clock is moved: when the budget is applied, the one day of
# its sprint has nearly passed.
#
# What is to be remembered goes to sprint.log in $SPRINT too, and what was used over time to sprint.csv and sprint.svg. Sourced
# by dev/demo.sh, after dev/demo-agents.sh, whose Redis this part uses.

readonly QUICKSTART=quickstart
readonly SPRINT=${CARGO_TARGET_DIR:-target}/demo
# Seconds from when the load begins to the end of the period, and of the period: a day.
readonly LOAD_LASTS=105
readonly DAY=86400
# Tasks for each of the two pools, and tokens of an answer. With its prompt a call uses 4,000, and before it begins it sets aside
# the 4,096 of the context: the budget has room for 199 of the 280, and what is left then for none.
readonly TASKS=140
readonly ANSWER=3986

# of KIND NAME FIELD: a field of an object of the quickstart.
of() { kubectl -n "$QUICKSTART" get "$1" "$2" -o "jsonpath={$3}"; }

# budget_says FIELD WANTED
budget_says() { [ "$(of tokenbudget sprint ".status.$1")" = "$2" ]; }

# has_taken ACTION: whether the budget has reached the threshold with this action.
has_taken() { [[ " $(of tokenbudget sprint '.status.verdict.steps[*].action') " == *" $1 "* ]]; }

# is_paused POOL
is_paused() { [ "$(of agentpool "$1" '.status.conditions[?(@.type=="PausedByBudget")].status')" = True ]; }

is_not_paused() { [ "$(of agentpool "$1" '.status.conditions[?(@.type=="PausedByBudget")].status')" = False ]; }

both_pause() { is_paused interactive && is_paused batch; }

neither_pauses() { is_not_paused interactive && is_not_paused batch; }

# all_work: whether each pool has as many agents as it may have.
all_work() { [ "$(of agentpool interactive .status.replicas) $(of agentpool batch .status.replicas)" = '4 4' ]; }

without_agents() {
  local pods
  pods=$(kubectl -n "$QUICKSTART" get pods -l "quartermaster.dev/agent-pool=$1" -o name) || return
  [ -z "$pods" ]
}

nobody_works() { without_agents interactive && without_agents batch; }

both_can_answer() { [ "$(of modelroute assistant .status.readyBackends)" = 2/2 ]; }

# is_held_to_economy: whether the route shows that a budget leaves its callers the Economy backend alone.
is_held_to_economy() { [ "$(of modelroute assistant '.status.callers[*].tier')" = 'Economy Economy' ]; }

# address SELECTOR: that of the first pod.
address() { kubectl -n "$QUICKSTART" get pods -l "$1" -o 'jsonpath={.items[0].status.podIP}'; }

# read_from ADDRESS PORT PATH: what a server of this machine answers, with its head.
read_from() {
  # In a shell of its own, which closes the connection.
  (
    exec 7<>"/dev/tcp/$1/$2" || exit
    printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$3" "$1" >&7
    cat <&7
  )
}

# made BACKEND...: the tokens that the servers of these backends have read and made, by their own count.
made() {
  local backend sum=0 tokens
  for backend; do
    tokens=$(read_from "${SERVERS[$backend]}" 8000 /control/totals |
      grep -o '"tokens":{"input":[0-9]*,"cached":[0-9]*,"cacheWritten":[0-9]*,"output":[0-9]*}' |
      tr -dc '0-9,\n' | awk -F, '{ print $1 + $4 }') || return
    sum=$((sum + tokens))
  done
  printf '%s\n' "$sum"
}

# makes_more BACKEND TOKENS: whether it has made more than that.
makes_more() { [ "$(made "$1")" -gt "$2" ]; }

has_made() { [ "$(made "$1")" = "$2" ]; }

# sample: what the operator that leads counts at this moment: used, limit, agents of the batch and of the interactive pool. The
# status of the budget has the same, but figures alone are written there every half minute.
sample() {
  read_from "$LEADER" 8080 /metrics | awk -v namespace="namespace=\"$QUICKSTART\"" '
    !index($0, namespace) { next }
    /^quartermaster_token_budget_limit\{/ { limit = $NF }
    /^quartermaster_token_budget_remaining\{/ { remaining = $NF }
    /^quartermaster_agent_pool_replicas\{/ && /state="current"/ && /pool="batch"/ { batch = $NF }
    /^quartermaster_agent_pool_replicas\{/ && /state="current"/ && /pool="interactive"/ { interactive = $NF }
    END {
      if (limit == "" || remaining == "") exit 1
      printf "%d %d %d %d\n", limit - remaining, limit, batch, interactive
    }'
}

# has_used TOKENS: whether the budget counts so many tokens in its period.
has_used() { [ "$(sample | cut -d ' ' -f 1)" = "$1" ]; }

# mark [STEP]: adds a point to the curve, and what happened then.
mark() {
  local used limit batch interactive refused
  read -r used limit batch interactive < <(sample 2>/dev/null) || return 0
  refused=$(outcomes | awk '$1 == "429" { calls += 1 } END { print calls + 0 }') || return 0
  printf '%s,%s,%s,%s,%s,%s,%s\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$used" "$limit" "$refused" "${1:-}" "$batch" "$interactive" >>"$SPRINT/sprint.csv"
}

keep_the_curve() {
  while :; do
    mark
    sleep 1
  done
}

# call_assistant TASK...: adds tasks, each of which is a call of the route: question-1 for the interactive pool, report-1 for
# the other.
call_assistant() {
  local task
  for task; do
    printf 'XADD %ss * id %s milliseconds 1000 model assistant prompt "%s [[tokens=%s]]"\n' \
      "${task%-*}" "$task" "$task" "$ANSWER"
  done | redis >/dev/null
}

# Prints of each call that agents have made how it ended, and its task.
outcomes() {
  local stream
  for stream in questions reports; do
    redis xrange "$stream:done" - +
  done | awk '$0 == "task" { getline; task = $0 } $0 == "call" { getline; print $0, task }'
}

# Prints how many calls ended in which way.
ways() { outcomes | awk '{ ways[$1] += 1 } END { for (way in ways) print ways[way], way }' | sort -rn; }

# ended_with OUTCOME: the tasks whose call ended so, each once.
ended_with() { outcomes | awk -v outcome="$1" '$1 == outcome && !seen[$2]++ { print $2 }'; }

somebody_was_refused() { [ "$(ended_with 429 | wc -l)" -gt 0 ]; }

all_are_answered() { [ "$(ended_with answered | wc -l)" -eq $((2 * TASKS)) ]; }

# answered_once: whether no task was done a second time after it was answered.
answered_once() { outcomes | awk '$1 == "answered" { again += seen[$2]++ } END { exit again > 0 }'; }

# answered_or_refused: whether no call ended in any other way.
answered_or_refused() { outcomes | awk '$1 != "answered" && $1 != "429" { others += 1 } END { exit others > 0 }'; }

# Prints what the gateway answers to a call of the interactive pool: the status, when to come again, and the body.
call_now() {
  local key gateway body='{"model": "assistant", "messages": [{"role": "user", "content": "May I?"}]}'
  key=$(of secret interactive-caller .data.OPENAI_API_KEY | base64 -d) || return
  gateway=$(address quartermaster.dev/gateway) || return
  (
    exec 7<>"/dev/tcp/$gateway/4000" || exit
    printf 'POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n' "$gateway" >&7
    printf 'Authorization: Bearer %s\r\nContent-Type: application/json\r\n' "$key" >&7
    printf 'Content-Length: %s\r\n\r\n%s' "${#body}" "$body" >&7
    tr -d '\r' <&7
  ) | awk 'NR == 1 || tolower($0) ~ /^(retry-after|x-should-retry):/ || body { print } $0 == "" { body = 1 }'
}

# shown ARGUMENTS...: shows what kubectl says, and remembers it.
shown() { { printf '$ kubectl %s\n' "$*" && kubectl -n "$QUICKSTART" "$@"; } | tee -a "$LOG" || true; }

# followed SECONDS COMMAND...: waits until the command succeeds, at most for so long, and shows the budget and the pools
# meanwhile.
followed() {
  local end=$((SECONDS + $1)) looked=$SECONDS
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    if [ $((SECONDS - looked)) -ge 5 ]; then
      looked=$SECONDS
      kubectl -n "$QUICKSTART" get tokenbudgets,agentpools || true
    fi
    sleep 0.3
  done
}

# apply_quickstart FILE PATCH: applies a file of the quickstart with a patch to each of its objects.
apply_quickstart() {
  kubectl patch --local --type=merge --patch "$2" --filename "examples/quickstart/$1" --output json |
    kubectl -n "$QUICKSTART" apply -f -
}

# Applies all but the budget. Pods are to run on the node that runs them for real.
make_quickstart() {
  local tolerations='"tolerations":[{"key":"dev.quartermaster.dev/local-node","operator":"Exists"}]'
  kubectl create namespace "$QUICKSTART"
  kubectl -n "$QUICKSTART" create configmap redis --from-literal="url=redis://$REDIS_ADDRESS:6379/0"
  place_gateway "$QUICKSTART"
  apply_quickstart backends.yaml "{\"spec\":{\"vllm\":{\"accelerator\":{\"products\":[\"NVIDIA-Local\"],$tolerations}}}}"
  apply_quickstart route.yaml '{}'
  apply_quickstart pools.yaml \
    "{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"kubernetes.io/hostname\":\"local\"},$tolerations}}}}"
}

# Applies the budget. Its period ends when the load has lasted for long enough.
make_budget() {
  local start
  PERIOD_ENDS=$(($(date +%s) + 5 + LOAD_LASTS))
  start=$(date -u -d "@$((PERIOD_ENDS - DAY))" +%Y-%m-%dT%H:%M:%S)
  apply_quickstart budget.yaml "{\"spec\":{\"period\":{\"start\":\"$start\"}}}"
}

# set_pace BACKEND MILLISECONDS: how long an answer of its simulated server takes.
set_pace() { control "${SERVERS[$1]}" POST /control/settings "{\"firstTokenMilliseconds\": $2, \"tokensPerEvent\": 100}"; }

prepare_sprint() {
  local holder
  say 'The quickstart: two models, a route, two pools of agents, and a budget of 800,000 tokens for a sprint'
  make_quickstart
  check 'the larger model is ready' kubectl -n "$QUICKSTART" wait --for=condition=Ready inferencebackend/standard --timeout=60s
  check 'the smaller model is ready' kubectl -n "$QUICKSTART" wait --for=condition=Ready inferencebackend/economy --timeout=60s
  check 'the route is ready' kubectl -n "$QUICKSTART" wait --for=condition=Ready modelroute/assistant --timeout=120s
  check 'both pools are ready' kubectl -n "$QUICKSTART" wait --for=condition=Ready agentpool/interactive agentpool/batch \
    --timeout=60s
  check 'both backends can answer' within_a_minute both_can_answer
  declare -gA SERVERS
  SERVERS[standard]=$(address quartermaster.dev/inference-backend=standard)
  SERVERS[economy]=$(address quartermaster.dev/inference-backend=economy)
  check 'an answer of the larger model takes 2.4 s' set_pace standard 2400
  check 'and one of the smaller 3.4 s' set_pace economy 3400
  holder=$(kubectl -n "$OPERATORS" get lease quartermaster -o 'jsonpath={.spec.holderIdentity}')
  LEADER=$(kubectl -n "$OPERATORS" get pod "${holder%_*}" -o 'jsonpath={.status.podIP}')
  make_budget
  check 'the budget is in force' kubectl -n "$QUICKSTART" wait --for=condition=Ready tokenbudget/sprint --timeout=60s
  check 'and all that was used is known' kubectl -n "$QUICKSTART" wait --for=condition=UsageKnown tokenbudget/sprint \
    --timeout=60s
  shown get tokenbudgets
}

spend_the_budget() {
  local numbers
  numbers=$(seq 1 "$TASKS")
  printf 'time,used,limit,refused,step,replicas.batch,replicas.interactive\n' >"$SPRINT/sprint.csv"
  keep_the_curve &
  # Ended by dev/demo.sh.
  CURVE_PID=$!

  say 'Tasks arrive: agents scale up, and their calls go to the Standard backend'
  # shellcheck disable=SC2086 # Each number is a word.
  call_assistant $(printf 'question-%s ' $numbers) $(printf 'report-%s ' $numbers)
  followed 30 all_work || true
  check 'both pools have as many agents as they may have' all_work
  followed 30 makes_more standard 50000 || true
  check 'the Standard backend answers' makes_more standard 50000
  check 'and it alone' has_made economy 0
  shown get agentpools

  say 'At 80 % the budget warns'
  followed 100 has_taken Alert || true
  mark '80 %: Alert'
  shown get tokenbudgets
  check 'it has warned' has_taken Alert

  say 'At 90 % it leaves its callers the Economy backend'
  followed 30 has_taken Downgrade || true
  mark '90 %: Downgrade to Economy'
  shown get tokenbudgets
  check 'it downgrades' has_taken Downgrade
  check 'the route shows it' within_a_minute is_held_to_economy
  check 'the Economy backend answers' within_a_minute makes_more economy 0

  say 'At 95 % it pauses the pool that can wait'
  followed 30 has_taken PausePools || true
  mark '95 %: PausePools'
  shown get tokenbudgets
  check 'the batch pool is paused' within_a_minute is_paused batch
  check 'its agents finish what they have, and end' within_a_minute without_agents batch
  shown get agentpools
}

block_at_the_limit() {
  local answer
  # What had begun there before has ended by now.
  STANDARD_MADE=$(made standard)
  say 'At the limit it blocks'
  followed 60 budget_says phase Exhausted || true
  mark Exhausted
  shown get tokenbudgets
  check 'it is exhausted' budget_says phase Exhausted
  check 'both pools are paused' within_a_minute both_pause
  check 'the last agents have finished, and ended' within_a_minute nobody_works
  check 'calls that found no room were refused' somebody_was_refused
  check 'no call has gone to the Standard backend since the downgrade' has_made standard "$STANDARD_MADE"
  answer=$(call_now) || true
  printf '%s\n' "$answer" | tee -a "$LOG"
  check 'whoever calls is told why, and when to come again' [ "${answer#*\"code\":\"budget_exceeded\"}" != "$answer" ]

  MADE=$(made standard economy)
  LIMIT=$(of tokenbudget sprint .spec.tokens)
  say "What the two servers have made, by their own count: $MADE tokens of $LIMIT"
  check 'not one token over the limit' [ "$MADE" -le "$LIMIT" ]
  check 'and less than a percent under it' [ $(((LIMIT - MADE) * 100)) -lt "$LIMIT" ]
  check 'the budget has counted each of them' within_a_minute has_used "$MADE"
  shown get agentpools
}

resume() {
  local resumed=$((PERIOD_ENDS + 20 - $(date +%s)))
  say 'The next period begins: everything goes on by itself'
  followed "$((resumed > 20 ? resumed : 20))" budget_says phase Active || true
  mark 'the next period'
  shown get tokenbudgets
  check 'the budget is active' budget_says phase Active
  check 'it remembers the period before, to the token' budget_says 'history[0].usedTokens' "$MADE"
  check 'and how that ended' budget_says 'history[0].phase' Exhausted
  check 'no pool is paused' within_a_minute neither_pauses
  # Those who were refused come again, as the gateway has told them.
  # shellcheck disable=SC2046 # Each task is a word.
  call_assistant $(ended_with 429)
  followed 30 all_work || true
  check 'both pools have all their agents again' all_work
  shown get agentpools
  followed 60 all_are_answered || true
  check 'every task is answered' all_are_answered
  check 'each once' answered_once
  check 'no call has ended otherwise than answered, or refused by the budget' answered_or_refused
  say 'How calls ended'
  ways | tee -a "$LOG"
  check 'the Standard backend answers again' makes_more standard "$STANDARD_MADE"
  check 'and it alone' has_made economy $((MADE - STANDARD_MADE))
  check 'the budget has counted each token of its new period' within_a_minute has_used $(($(made standard economy) - MADE))
  mark
  shown get tokenbudgets,modelroutes,agentpools
}

draw_the_curve() {
  { kill "$CURVE_PID" && wait "$CURVE_PID"; } 2>/dev/null || true
  CURVE_PID=
  say "The burn curve: $SPRINT/sprint.svg, of the points in $SPRINT/sprint.csv"
  check 'it is drawn' "${CARGO_TARGET_DIR:-target}/debug/quartermaster" budget plot "$SPRINT/sprint.csv" \
    --title 'A sprint of 800,000 tokens' --svg "$SPRINT/sprint.svg"
}

show_sprint() {
  mkdir -p "$SPRINT"
  rm -f "$SPRINT"/sprint.*
  LOG=$SPRINT/sprint.log
  prepare_sprint
  spend_the_budget
  block_at_the_limit
  resume
  draw_the_curve
  LOG=/dev/null
}
