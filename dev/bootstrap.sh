#!/usr/bin/env bash
#
# Brings a machine to the point where Quartermaster can be built and tested: first what the machine itself lacks,
# then the development control plane, and Helm and promtool where they are asked for, built from the Go modules that go.mod
# files pin.
# Nothing is written into the tree. A second run finds everything and ends at once.

set -euo pipefail
# A failure inside $(...) must end the script as well.
shopt -s inherit_errexit

DEV=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly DEV
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/quartermaster

# What `bootstrap.sh` without arguments asks for.
readonly DEFAULT_REQUIREMENTS=(linker rust rust-components go redis control-plane)

# What is built from Go modules. One line each: the requirement that it belongs to, name, Go package, and whether
# KUBEBUILDER_ASSETS may replace it.
readonly BINARIES="
control-plane etcd                    go.etcd.io/etcd/server/v3                       replaceable
control-plane kube-apiserver          k8s.io/kubernetes/cmd/kube-apiserver            replaceable
control-plane kubectl                 k8s.io/kubernetes/cmd/kubectl                   replaceable
control-plane kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager   built
control-plane kube-scheduler          k8s.io/kubernetes/cmd/kube-scheduler            built
control-plane kwok                    sigs.k8s.io/kwok/cmd/kwok                       built
control-plane kwokctl                 sigs.k8s.io/kwok/cmd/kwokctl                    built
control-plane kubeconform             github.com/yannh/kubeconform/cmd/kubeconform    built
helm          helm                    helm.sh/helm/v4/cmd/helm                        built
promtool      promtool                github.com/prometheus/prometheus/cmd/promtool   built
"

usage() {
  cat <<EOF
Usage: dev/bootstrap.sh [REQUIREMENT...]     install or build what is missing
       dev/bootstrap.sh --check [REQUIREMENT...]  say what is missing, change nothing; exit code 1 if anything is
       dev/bootstrap.sh where [REQUIREMENT]  print the path of each binary of the control plane, or of another requirement

Requirements (default: ${DEFAULT_REQUIREMENTS[*]}):
  linker           a C compiler and linker
  rust             cargo $(rust_minimum) or newer
  rust-components  rustfmt and clippy
  go               Go $(go_minimum) or newer; an older Go fetches that toolchain through the module proxy
  redis            redis-server
  python           Python 3.11 to 3.14 with venv, for clients' SDKs and vLLM's own parser
  control-plane    the Kubernetes binaries, built from source; $(build_time control-plane) on 2 cores, once
  helm             Helm, built from source, which needs go; $(build_time helm) on 2 cores, once
  promtool         Prometheus' promtool, built from source, which needs go; $(build_time promtool) on 2 cores, once

On Debian and Ubuntu a missing tool is installed with apt-get (as root, or with sudo), and Rust with rustup's installer
where the package is too old. Elsewhere what is missing is named together with the remedy, before anything long begins.
Where rustup is installed, it is what brings Rust.

Environment:
  XDG_CACHE_HOME      the binaries live in \$XDG_CACHE_HOME/quartermaster (default ~/.cache/quartermaster)
  KUBEBUILDER_ASSETS  a directory with etcd, kube-apiserver and kubectl to use instead of building these three
EOF
}

# ---------------------------------------------------------------------------------------------------------------------
# Output

say() { printf '%s\n' "bootstrap: $*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

# elapsed SECONDS: prints "1m05s".
elapsed() { printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); }

# ---------------------------------------------------------------------------------------------------------------------
# Versions

# at_least HAVE WANT: whether version HAVE is WANT or newer.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

rust_minimum() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$DEV/../Cargo.toml" | head -n 1; }
# The newest Go that one of the modules asks for.
go_minimum() {
  sed -n 's/^go \([0-9.]*\)$/\1/p' "$DEV/go/go.mod" "$DEV/helm/go.mod" "$DEV/promtool/go.mod" | sort -rV | head -n 1
}

# module_of REQUIREMENT: the directory of the go.mod and go.sum that pin what it is built from.
module_of() {
  case $1 in
    control-plane) echo "$DEV/go" ;;
    helm) echo "$DEV/helm" ;;
    promtool) echo "$DEV/promtool" ;;
    *) fail "'$1' is not built from Go modules" ;;
  esac
}

# module_version REQUIREMENT MODULE: the version that its go.mod requires, such as v1.37.2.
module_version() {
  local directory version
  directory=$(module_of "$1")
  version=$(awk -v module="$2" '$1 == module && $2 ~ /^v/ {print $2; exit}' "$directory/go.mod")
  [ -n "$version" ] || fail "$directory/go.mod requires no version of $2"
  echo "$version"
}

rust_version() { cargo --version 2>/dev/null | awk '{print $2}'; }
# GOTOOLCHAIN=local: the version of the installed Go itself, not of one that it would fetch.
go_version() { (cd / && GOTOOLCHAIN=local GOWORK=off go version 2>/dev/null) | awk '{sub(/^go/, "", $3); print $3}'; }

# ---------------------------------------------------------------------------------------------------------------------
# Requirements: is it there, which Debian packages have it, what to do elsewhere

have() {
  case $1 in
    linker) command -v cc >/dev/null ;;
    rust) command -v cargo >/dev/null && at_least "$(rust_version)" "$(rust_minimum)" ;;
    rust-components) cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ;;
    # Any Go can fetch the toolchain that it lacks; see use_go.
    go) command -v go >/dev/null ;;
    redis) command -v redis-server >/dev/null ;;
    # What needs it says which one it takes.
    python) "$DEV/vllm/prepare.sh" --python >/dev/null 2>&1 ;;
    *) fail "unknown requirement '$1'; dev/bootstrap.sh --help lists them" ;;
  esac
}

debian_packages() {
  case $1 in
    linker) echo "gcc libc6-dev" ;;
    rust) echo "cargo rustc" ;;
    rust-components) echo "rustfmt rust-clippy" ;;
    go) echo "golang-go" ;;
    redis) echo "redis-server" ;;
    python) echo "python3 python3-venv" ;;
  esac
}

remedy() {
  case $1 in
    linker) echo "install a C compiler, for example gcc or clang, that answers to 'cc'" ;;
    rust) echo "install Rust $(rust_minimum) or newer, for example with rustup (https://rustup.rs)" ;;
    rust-components) echo "run 'rustup component add rustfmt clippy', or install your system's packages of them" ;;
    go) echo "install Go $(go_minimum) or newer (https://go.dev/doc/install)" ;;
    redis) echo "install Redis 7 or newer so that 'redis-server' is in PATH" ;;
    python) echo "install Python 3.11 to 3.14 with the modules venv and ensurepip" ;;
  esac
}

AS_ROOT=()
can_use_apt() {
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" = 0 ]; then
    AS_ROOT=()
  elif command -v sudo >/dev/null; then
    AS_ROOT=(sudo)
  else
    return 1
  fi
}

APT_UPDATED=
apt_update() {
  [ -z "$APT_UPDATED" ] || return 0
  say "apt-get update"
  ${AS_ROOT[@]+"${AS_ROOT[@]}"} apt-get update -qq >&2
  APT_UPDATED=yes
}

apt_install() {
  apt_update
  say "apt-get install $*"
  ${AS_ROOT[@]+"${AS_ROOT[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends -qq "$@" >&2
}

apt_candidate() { apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ {sub(/^[0-9]+:/, "", $2); print $2}'; }

# Debian's Rust is often older than we need: rustup first where it is, then the package if it is new enough,
# then rustup's own installer if it can be reached. On a machine that is not Debian's, or whose user may install
# nothing, that installer is not run: the remedy says what to do.
install_rust() {
  if command -v rustup >/dev/null; then
    say "rustup toolchain install stable"
    rustup toolchain install stable --profile minimal --component rustfmt --component clippy >&2 &&
      rustup default stable >&2 && return 0
  fi
  can_use_apt || return 1
  apt_update
  if at_least "$(apt_candidate cargo)" "$(rust_minimum)"; then
    apt_install cargo rustc rustfmt rust-clippy && return 0
  fi
  command -v curl >/dev/null || apt_install curl ca-certificates
  local installer
  if command -v curl >/dev/null && installer=$(curl --fail --silent --show-error --max-time 20 https://sh.rustup.rs); then
    say "installing Rust with rustup"
    sh -c "$installer" rustup-init -y --profile minimal --component rustfmt --component clippy --no-modify-path >&2 ||
      return 1
    PATH=$HOME/.cargo/bin:$PATH
    return 0
  fi
  return 1
}

install_requirement() {
  case $1 in
    rust) install_rust ;;
    rust-components)
      # Those of a Rust that is too old are of no use.
      have rust || return 1
      if command -v rustup >/dev/null; then
        rustup component add rustfmt clippy >&2
      elif can_use_apt; then
        apt_install rustfmt rust-clippy
      else
        return 1
      fi
      ;;
    *)
      can_use_apt || return 1
      # Word splitting is wanted: the table holds several package names in one field.
      # shellcheck disable=SC2046
      apt_install $(debian_packages "$1")
      ;;
  esac
}

# ---------------------------------------------------------------------------------------------------------------------
# Go: the installed one, or the toolchain of the needed version through the module proxy

# Prints the path of a go command that can build our modules. It needs no GOTOOLCHAIN support in the installed Go
# (Debian 12 has 1.19, which lacks it): the toolchain is a module, whose checksum the go command verifies.
# Go restores no execute bits when it unpacks a module, so that is done here, on a copy in our cache.
use_go() {
  local minimum wanted platform directory module
  minimum=$(go_minimum)
  if at_least "$(go_version)" "$minimum"; then
    command -v go
    return
  fi
  wanted=go$minimum
  platform=$(go env GOOS)-$(go env GOARCH)
  directory=$CACHE/toolchain-$wanted.$platform
  if [ ! -x "$directory/bin/go" ]; then
    say "Go $(go_version) is older than $minimum: fetching $wanted through the Go module proxy (about 70 MB)"
    module=$(cd / && GOTOOLCHAIN=local GOFLAGS=-mod=mod GOWORK=off \
      go mod download -json "golang.org/toolchain@v0.0.1-$wanted.$platform" |
      sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p') || true
    [ -n "$module" ] || fail "cannot fetch Go $minimum through the module proxy; $(remedy go)"
    rm -rf "$directory.unpacking"
    cp -R "$module" "$directory.unpacking"
    chmod -R u+w "$directory.unpacking"
    find "$directory.unpacking/bin" "$directory.unpacking/pkg/tool" -type f -exec chmod +x {} +
    mv "$directory.unpacking" "$directory"
  fi
  echo "$directory/bin/go"
}

# ---------------------------------------------------------------------------------------------------------------------
# What is built from Go modules: the control plane, Helm and promtool

# is_built REQUIREMENT: whether it is one of these.
is_built() { awk -v requirement="$1" '$1 == requirement {found = 1} END {exit !found}' <<<"$BINARIES"; }

# How long a build takes on 2 cores.
build_time() {
  case $1 in
    control-plane) echo 'about 7 minutes' ;;
    helm) echo 'about 2 minutes' ;;
    promtool) echo 'a few minutes' ;;
  esac
}

# link_flags REQUIREMENT: flags of the Go linker. Kubernetes binaries that do not know their own version refuse to start.
link_flags() {
  local kubernetes kwok kubeconform helm minor version=k8s.io/component-base/version
  case $1 in
    helm)
      helm=$(module_version helm helm.sh/helm/v4)
      printf '%s' "-s -w -X helm.sh/helm/v4/internal/version.version=$helm"
      return
      ;;
    promtool)
      printf '%s' "-s -w"
      return
      ;;
  esac
  kubernetes=$(module_version control-plane k8s.io/kubernetes)
  kwok=$(module_version control-plane sigs.k8s.io/kwok)
  kubeconform=$(module_version control-plane github.com/yannh/kubeconform)
  minor=${kubernetes#v*.}
  printf '%s' "-s -w" \
    " -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" \
    " -X $version.gitTreeState=clean -X $version.gitCommit=" \
    " -X sigs.k8s.io/kwok/pkg/consts.Version=$kwok -X main.version=$kubeconform"
}

# build_tags REQUIREMENT: tags of the Go build. Rules are checked without the clients of any cloud that Prometheus finds targets in.
build_tags() { [ "$1" != promtool ] || printf '%s' remove_all_sd; }

# binaries_directory REQUIREMENT: one directory for each pinned set of sources, so that two working trees never disturb
# each other.
binaries_directory() {
  local module flags sum
  module=$(module_of "$1")
  flags=$(link_flags "$1")$(build_tags "$1")
  if command -v sha256sum >/dev/null; then
    sum=$(printf '%s' "$flags" | cat "$module/go.mod" "$module/go.sum" - | sha256sum)
  else
    sum=$(printf '%s' "$flags" | cat "$module/go.mod" "$module/go.sum" - | shasum -a 256)
  fi
  echo "$CACHE/$1-${sum:0:16}"
}

# where REQUIREMENT: prints "name path" for each binary. This is the one place that knows where they are.
where() {
  local directory requirement name replaceable
  directory=$(binaries_directory "$1")
  while read -r requirement name _ replaceable; do
    [ "$requirement" = "$1" ] || continue
    if [ "$replaceable" = replaceable ] && [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
      echo "$name $KUBEBUILDER_ASSETS/$name"
    else
      echo "$name $directory/$name"
    fi
  done <<<"$BINARIES"
}

# missing_binaries REQUIREMENT: prints "name package" for each binary that has yet to be built.
missing_binaries() {
  local directory paths name path package
  directory=$(binaries_directory "$1")
  paths=$(where "$1")
  while read -r name path; do
    [ ! -x "$path" ] || continue
    [ "$path" = "$directory/$name" ] || fail "KUBEBUILDER_ASSETS is set, but $path is not an executable file"
    package=$(awk -v name="$name" '$2 == name {print $3}' <<<"$BINARIES")
    echo "$name $package"
  done <<<"$paths"
}

BUILD_PROCESS=
BUILD_DIRECTORY=
stop_build() {
  # The build runs in a process group of its own; its compilers must end with it.
  [ -z "$BUILD_PROCESS" ] || kill -TERM -- "-$BUILD_PROCESS" 2>/dev/null || true
  BUILD_PROCESS=
  # A Go module cache is read-only, our build directory is not.
  [ -z "$BUILD_DIRECTORY" ] || rm -rf "$BUILD_DIRECTORY"
  BUILD_DIRECTORY=
}

# watch_build: reports until the build ends; the exit code is the build's.
# On a terminal one line that is rewritten every second, elsewhere a line every 15 seconds.
watch_build() {
  local log=$BUILD_DIRECTORY/log start=$SECONDS reported=$SECONDS total built line width code=0
  while kill -0 "$BUILD_PROCESS" 2>/dev/null; do
    sleep 1
    built=$(grep -c -v '^go: ' "$log" || true)
    if [ -f "$BUILD_DIRECTORY/packages" ]; then
      total=$(wc -l <"$BUILD_DIRECTORY/packages")
      line="$(elapsed $((SECONDS - start))) compiled $built of at most $((total)) packages; $(tail -n 1 "$log")"
    else
      line="$(elapsed $((SECONDS - start))) reading the modules; $(tail -n 1 "$log")"
    fi
    if [ -t 2 ]; then
      width=$(tput cols 2>/dev/null || echo 100)
      printf '\r\033[K%s' "${line:0:$((width - 1))}" >&2
    elif [ $((SECONDS - reported)) -ge 15 ]; then
      reported=$SECONDS
      say "$line"
    fi
  done
  [ ! -t 2 ] || printf '\r\033[K' >&2
  wait "$BUILD_PROCESS" || code=$?
  BUILD_PROCESS=
  return "$code"
}

# build REQUIREMENT: Go installs each binary into a directory of its own, and only a complete binary is moved to its place:
# an interrupted build is never taken for a finished one.
build() {
  local module directory go missing names packages flags tags log start name package built
  module=$(module_of "$1")
  directory=$(binaries_directory "$1")
  mkdir -p "$CACHE"

  # One build at a time: the second one waits, then finds everything built.
  if command -v flock >/dev/null; then
    exec 9>"$CACHE/build.lock"
    if ! flock --nonblock 9; then
      say "another build is running; waiting for it"
      flock 9
    fi
  fi

  missing=$(missing_binaries "$1")
  if [ -z "$missing" ]; then
    exec 9>&-
    return 0
  fi
  names=() packages=()
  while read -r name package; do
    names+=("$name")
    packages+=("$package")
  done <<<"$missing"

  go=$(use_go)
  flags=$(link_flags "$1")
  tags=$(build_tags "$1")

  say "building ${names[*]}"
  say "into $directory; $(build_time "$1") on 2 cores, and never again until ${module#"${DEV%/*}/"} changes"
  trap stop_build EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  BUILD_DIRECTORY=$directory.building.$$
  mkdir -p "$BUILD_DIRECTORY"
  log=$BUILD_DIRECTORY/log
  start=$SECONDS

  export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN=local GOBIN=$BUILD_DIRECTORY/bin
  : >"$log"
  # set -m gives the job a process group of its own, so that stop_build can end all of it.
  set -m
  (
    cd "$module"
    "$go" list -deps -tags "$tags" "${packages[@]}" >"$BUILD_DIRECTORY/packages.unfinished"
    mv "$BUILD_DIRECTORY/packages.unfinished" "$BUILD_DIRECTORY/packages"
    exec "$go" install -v -trimpath -tags "$tags" -ldflags "$flags" "${packages[@]}"
  ) >>"$log" 2>&1 9>&- &
  BUILD_PROCESS=$!
  set +m
  if ! watch_build; then
    tail -n 40 "$log" >&2
    fail "building ${names[*]} failed; the last lines of the compiler are above"
  fi

  mkdir -p "$directory"
  while read -r name package; do
    # Go names a binary after the last element of its package path that is not a major version.
    built=$(basename "${package%/v[0-9]*}")
    mv -f "$GOBIN/$built" "$directory/$name"
  done <<<"$missing"
  stop_build
  trap - EXIT HUP INT TERM
  exec 9>&-
  say "built ${names[*]} in $(elapsed $((SECONDS - start)))"
}

# ---------------------------------------------------------------------------------------------------------------------

main() {
  local check='' requirement binaries missing=() builds=() failed=()
  case ${1:-} in
    -h | --help)
      usage
      return
      ;;
    where)
      where "${2:-control-plane}"
      return
      ;;
    --check)
      check=yes
      shift
      ;;
  esac
  [ $# -gt 0 ] || set -- "${DEFAULT_REQUIREMENTS[@]}"

  # Rust may be installed and yet not in PATH, since rustup changes only login shells.
  [ ! -d "$HOME/.cargo/bin" ] || PATH=$PATH:$HOME/.cargo/bin

  for requirement in "$@"; do
    if is_built "$requirement"; then
      binaries=$(missing_binaries "$requirement")
      [ -z "$binaries" ] || builds+=("$requirement")
    elif ! have "$requirement"; then
      missing+=("$requirement")
    fi
  done

  if [ -n "$check" ]; then
    for requirement in ${missing[@]+"${missing[@]}"}; do
      say "missing: $requirement; $(remedy "$requirement")"
    done
    for requirement in ${builds[@]+"${builds[@]}"}; do
      say "missing: $requirement; run dev/bootstrap.sh go $requirement"
    done
    [ ${#builds[@]} -eq 0 ] && [ ${#missing[@]} -eq 0 ]
    return
  fi

  for requirement in ${missing[@]+"${missing[@]}"}; do
    # Go is needed to build these and for nothing else.
    if [ "$requirement" = go ] && [ ${#builds[@]} -eq 0 ]; then continue; fi
    if ! install_requirement "$requirement" || ! have "$requirement"; then failed+=("$requirement"); fi
  done
  if [ ${#failed[@]} -gt 0 ]; then
    for requirement in "${failed[@]}"; do
      say "missing: $requirement; $(remedy "$requirement")"
    done
    fail "install the above and run this again"
  fi

  for requirement in ${builds[@]+"${builds[@]}"}; do
    build "$requirement"
  done
}

main "$@"
