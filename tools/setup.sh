#!/bin/sh
# Make or update the virtual environment named as the argument. Called by the Makefile, which runs it again until it has
# left the file .ready behind. An environment that an interrupted run left half made is thrown away.
set -eu

venv=${1:?usage: tools/setup.sh DIRECTORY}
unfinished=$venv/.unfinished

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: there is no such program"
    new_enough "$PYTHON" || fail "Python 3.11 or newer is needed; PYTHON=$PYTHON is $("$PYTHON" --version 2>&1)"
else
    for PYTHON in python3 python3.11 python3.12 python3.13 ''; do
        if [ -n "$PYTHON" ] && command -v "$PYTHON" >/dev/null && new_enough "$PYTHON"; then break; fi
    done
    [ -n "$PYTHON" ] || fail "Python 3.11 or newer is needed and none is on PATH; name one: make PYTHON=/path/to/python3"
fi

for tool in make c++; do
    command -v $tool >/dev/null || fail "$tool is needed and is not on PATH; on Debian and Ubuntu: apt install build-essential"
done

# Two at once would throw away each other's work, and so would one that begins while an interrupted one's pip goes on:
# what is locked stays so until the last of its processes has ended.
if command -v flock >/dev/null; then
    exec 9<"$0"
    if ! flock -n 9; then
        say "waiting for another set-up to end"
        flock 9 || :  # a file system without locks
        if [ -e "$venv/.ready" ] && [ -z "$(find pyproject.toml constraints.txt "$0" -newer "$venv/.ready")" ]; then
            say "$venv is ready"
            exit 0
        fi
    fi
fi

if [ -e "$unfinished" ] || { [ -d "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    say "$venv is left over from an interrupted set-up: making it again"
    rm -rf "$venv"
fi

if [ ! -d "$venv" ]; then
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON lacks venv or ensurepip; on Debian and Ubuntu: apt install python$version-venv"
    say "Setting up $venv with Python $version (once; 1 to 2 minutes, 1.5 GB on disk)"
    mkdir "$venv"
    : >"$unfinished"
    "$PYTHON" -m venv "$venv"
else
    say "Updating $venv: pyproject.toml or constraints.txt has changed"
    : >"$unfinished"
fi
rm -f "$venv/.ready"

# pip takes one core: what constraints.txt pins, torch, comes first, and is compiled on another one beside the rest. What
# does not compile are templates and the like. What tests import seldom or never is compiled when it is imported:
# libraries' own tests, and programs; 71 of 182 MB.
seldom='/site-packages/(.*/)?(tests?|testing|benchmarks|_inductor|lexers|mypyc?|pip|scapy)/'
install() { "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile --constraint constraints.txt "$@"; }
compile() { exec "$venv/bin/python" -m compileall -q -j "$1" -x "$seldom" "$venv"/lib/python*/site-packages >/dev/null 2>&1; }
install --requirement constraints.txt
compile 1 &
trap 'kill $! 2>/dev/null || :' EXIT
install --editable '.[sim,demo,test,site]'
wait
(compile 0) || :

rm "$unfinished"
: >"$venv/.ready"
say "$venv is ready"
