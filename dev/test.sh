#!/usr/bin/env bash
#
# Everything that has to hold: builds, lints, and tests against a real control plane. Starts what it needs, leaves
# nothing running, prints the minutes of each stage, and ends with one line that counts.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# rustup changes only login shells.
[ ! -d "$HOME/.cargo/bin" ] || PATH=$PATH:$HOME/.cargo/bin

OUTPUT=$(mktemp -d)
readonly OUTPUT
STAGES=()

# why_tests_failed: where each failed test panicked, and the first lines of what it said. Far above, they are hard to find, and whoever
# keeps only the end of the output has lost them.
why_tests_failed() {
  cat "$OUTPUT"/*.log 2>/dev/null | awk -v lines=12 '
    /^---- .* stdout ----$/ { is_of_test = 1; left = 0; printf "\n%s failed:\n", $2; next }
    /^(failures:|test result: )/ { is_of_test = 0; left = 0 }
    is_of_test && /^(thread .* panicked at |Error: |note: test did not panic)/ { left = lines }
    /^stack backtrace:/ { left = 0 }
    is_of_test && left > 0 { print "  " substr($0, 1, 500); left-- }'
}

finish() {
  local code=$?
  [ "$code" -eq 0 ] || why_tests_failed || true
  printf '\n'
  # An empty array is unset in the eyes of older bashes.
  [ ${#STAGES[@]} -eq 0 ] || printf '%s\n' "${STAGES[@]}"
  # cargo prints one such line for each test binary:
  # "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s"
  cat "$OUTPUT"/*.log 2>/dev/null | awk -v code="$code" '
    /^test result: / {
      for (i = 1; i < NF; i++) {
        if ($(i + 1) ~ /^passed/) passed += $i
        if ($(i + 1) ~ /^failed/) failed += $i
        if ($(i + 1) ~ /^ignored/) ignored += $i
      }
    }
    END {
      # A stage that failed without a failing test, such as the build or the lint, is a failure all the same.
      if (code != 0 && failed == 0) failed = 1
      printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored
    }'
  rm -rf "$OUTPUT"
  exit "$code"
}
trap finish EXIT

# The process group of the stage that runs.
STAGE=

# interrupted NUMBER NAME: hands a signal on to the stage, and ends when that has ended. A second signal does not wait.
interrupted() {
  trap - HUP INT TERM
  if [ -n "$STAGE" ]; then
    STAGES+=('interrupted')
    kill -s "$2" -- "-$STAGE" 2>/dev/null || true
    wait "$STAGE" || true
    # The wait can end before all of the stage has: what it still says is part of its output. Not for ever, as ended processes whose
    # parent is gone may stand there for a while.
    for _ in {1..50}; do
      kill -0 -- "-$STAGE" 2>/dev/null || break
      sleep 0.1
    done
  fi
  exit $((128 + $1))
}
trap 'interrupted 1 HUP' HUP
trap 'interrupted 2 INT' INT
trap 'interrupted 15 TERM' TERM

# Writes a stage's output to a file as well. What a stage says while it is being ended is shown, so no signal ends this.
keep() {
  trap '' HUP INT TERM
  exec tee "$1"
}

# stage NAME COMMAND...: runs the command, keeps its output for the count, notes the time; stops at the first failure.
# The command runs in the background, because bash acts on a signal only between two commands of the foreground, and in a
# process group of its own (set -m), so that all of it can be told. The shell around it takes the signal and waits on.
stage() {
  local name=$1 start=$SECONDS code=0 result=ok
  shift
  printf '\n== %s\n' "$name"
  set -m
  (
    trap : HUP INT TERM
    "$@" 2>&1 | keep "$OUTPUT/$name.log"
  ) </dev/null &
  STAGE=$!
  set +m
  wait "$STAGE" || code=$?
  STAGE=
  [ "$code" -eq 0 ] || result=FAILED
  STAGES+=("$(awk -v name="$name" -v seconds=$((SECONDS - start)) -v result="$result" \
    'BEGIN {printf "%-14s %5.1f min  %s", name, seconds / 60, result}')")
  return "$code"
}

# Clippy checks every dependency anew, which takes minutes the first time: it shows how far it is.
lint() {
  cargo fmt --all --check && cargo clippy --workspace --all-targets --locked -- -D warnings
}

# Clients' SDKs are run by Python.
stage python dev/bootstrap.sh python
stage bootstrap dev/bootstrap.sh
stage sdks dev/sdks/prepare.sh sdks
stage helm dev/bootstrap.sh go helm
stage promtool dev/bootstrap.sh go promtool
stage build cargo build --workspace --all-targets --locked
stage lint lint
stage unit cargo test --workspace --locked --lib --bins
# These tests mostly wait for the control plane: three at once for each processor, not one. The binary is the one that was
# just built: `cargo run -p` would compile dependencies anew with the features of that package alone.
stage control-plane env RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 3))}" \
  "${CARGO_TARGET_DIR:-target}/debug/quartermaster-dev" with-cluster --nodes --local-node -- \
    cargo test --workspace --locked --no-fail-fast --test '*'
