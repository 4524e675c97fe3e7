#!/usr/bin/env bash
# The kernels one by one, on one thread, against what this machine was measured to be able to do: every instruction set,
# each checked against the scalar definition first, and the ways of skipping rows that decode weighs.
#
# Usage: scripts/bench_kernels.sh
#
# Writes receipts/kernels.txt.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "building and running the bench"
kernels=$(bench_of kernels --target-dir target-plain)
run_bench "$kernels" >"$work/lines" || die "the bench of the kernels failed"
grep -q '^gemv_i2s ' "$work/lines" || die "the bench printed no line of gemv_i2s"
{
    text_header kernels
    text_binary "$kernels"
    echo "threads: 1"
    echo "command: cargo bench -p bitnet-core --bench kernels"
    echo "columns: kernel, instruction set, bytes and products per second, share of the ceiling, slowest and fastest run"
    echo
    cat "$work/lines"
} >"$work/receipt"
write_receipt kernels.txt "$work/receipt"
