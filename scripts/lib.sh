# Shared by the scripts beside it; sourced, never run.
# Sets ROOT, and offers `say`, `fail`, `need_packages`.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# need_packages WHY PACKAGE...: install what is missing with apt when root, each named first; else say what to type.
# Nothing that is installed here is started as a service.
need_packages() {
    local why=$1 missing=() package
    shift
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "missing $why: ${missing[*]}. As root: apt-get install --no-install-recommends ${missing[*]}"
        return 1
    fi
    for package in "${missing[@]}"; do say "installing the Debian package $package ($why)"; done
    local guard=/usr/sbin/policy-rc.d made_guard=
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$guard" && chmod 755 "$guard" && made_guard=yes
    fi
    local log status=0
    log=$(mktemp)
    {
        apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1 </dev/null || status=$?
    [ -z "$made_guard" ] || rm -f "$guard"
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        say "apt-get could not install: ${missing[*]}"
        return 1
    fi
    rm -f "$log"
}
