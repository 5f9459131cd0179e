# shellcheck shell=bash
# What the scripts share: the clone's own Python environment, made once and made again when pyproject.toml changes.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

# Prints the first Python on PATH that is 3.11 or later and can make environments.
find_python() {
    local candidate without_venv=
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        command -v "$candidate" >/dev/null || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=$candidate
    done
    if [[ -n $without_venv ]]; then
        local version
        version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        die "Python $version is here, but not its part that makes environments; install it:" \
            "apt-get install python$version-venv"
    fi
    die "no Python 3.11 or later on PATH; install one: apt-get install python3 python3-venv" \
        "(Debian 12, Ubuntu 24.04 or later), dnf install python3.12, or https://www.python.org/downloads/"
}

# Makes $VENV fit for `run` (the program with its embedded engine and model) or `dev` (that and the test tools).
# Takes a moment when it fits already; a second caller waits for the first.
prepare_environment() {
    local purpose=$1 stamp
    (
        flock --timeout 900 9 || die "another script has been preparing $VENV for 15 minutes"
        if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
            make_environment
        fi
        stamp=$(environment_stamp)
        if [[ $(cat -- "$VENV/.made-for-$purpose" 2>/dev/null) != "$stamp" ]]; then
            install_into_environment "$purpose"
            printf '%s\n' "$stamp" >"$VENV/.made-for-run" # `dev` holds all that `run` needs
            printf '%s\n' "$stamp" >"$VENV/.made-for-$purpose"
        fi
    ) 9<"$ROOT/scripts"
}

# What the environment depends on. A moved clone is another one: its programs begin with their absolute path.
environment_stamp() {
    { printf '%s\n' "$ROOT" && "$VENV/bin/python" -V && cat -- "$ROOT/pyproject.toml"; } | sha256sum
}

make_environment() {
    local python
    python=$(find_python)
    say "making a Python environment in $VENV ($("$python" -V))"
    "$python" -m venv --clear -- "$VENV" || die "could not make it; see the lines above"
}

install_into_environment() {
    local wanted=(--editable "${ROOT}[embedded]")
    if [[ $1 == dev ]]; then
        mapfile -t -O "${#wanted[@]}" wanted < <(dev_requirements) # pip 23 knows no --group
    fi
    "$VENV/bin/python" "$ROOT/scripts/install_progress.py" "$VENV/install.log" "${wanted[@]}"
}

dev_requirements() {
    "$VENV/bin/python" - "$ROOT/pyproject.toml" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["dependency-groups"]["dev"], sep="\n")
PYTHON
}

# ensure_program PROGRAM PACKAGE...: installs Debian packages for a program that is missing, where this user may.
ensure_program() {
    local program=$1
    shift
    if command -v "$program" >/dev/null; then
        return
    fi
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        say "installing $* (for $program)"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@"; } \
            >/dev/null || die "apt-get could not install $*"
    else
        say "$program is missing; tests that need it are skipped. Install: $*"
    fi
}

# Says where the real vLLM is, to the tests that need it; makes its environment first, unless told --if-made. Where it
# cannot be made, those tests are skipped, or fail under CI.
export_vllm() {
    local python
    python=$("$ROOT/scripts/vllm_env" "$@") || return 0 # it has said why
    if [[ -n $python ]]; then
        export LLM_SUPERVISORD_VLLM_PYTHON=$python LLM_SUPERVISORD_VLLM_MODEL=${python%/bin/python}/model
    fi
}
