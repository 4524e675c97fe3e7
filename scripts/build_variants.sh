#!/usr/bin/env bash
# Builds both variants of `bitnet` side by side, each in its own target directory:
#
#   target-plain/release/bitnet         without instrumentation
#   target-instrument/release/bitnet    with --features instrument
#
# Usage: scripts/build_variants.sh [plain|instrument]
#
# With an argument only that variant is built. The paths of the binaries go to stdout.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -le 1 ]] || die "expected at most one argument; see --help"

case ${1:-both} in
    both)
        build plain
        build instrument
        echo "$PLAIN"
        echo "$INSTRUMENT"
        ;;
    plain)
        build plain
        echo "$PLAIN"
        ;;
    instrument)
        build instrument
        echo "$INSTRUMENT"
        ;;
    *) die "$1: expected plain or instrument; see --help" ;;
esac
