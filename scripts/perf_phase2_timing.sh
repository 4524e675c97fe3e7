#!/usr/bin/env bash
# Phase 2: where a token's time goes. Three runs with BITNET_TRACE_TIMING=1, and the median of each phase.
#
# Usage: scripts/perf_phase2_timing.sh [MODEL] [TOKENIZER]
#
# MODEL defaults to models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf, TOKENIZER to the
# tokenizer.json beside the model; without that model a small one is synthesized, and the receipt says so.
# TOKENS=32 in the environment sets how many tokens each run generates.
#
# The first token of a run is kept apart: its forward pass is the whole prompt. Fails if a run gives anything
# but four lines per token.
#
# Writes receipts/phase2_timing_i2s.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -le 2 ]] || die "expected at most two arguments; see --help"
tokens=${TOKENS:-32}
[[ $tokens =~ ^[0-9]+$ && $tokens -ge 2 ]] || die "TOKENS=$tokens: expected a number from 2"

build instrument
choose_model "$@"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command=("$INSTRUMENT" run --model "$MODEL" "${INPUT[@]}" -n "$tokens" --greedy --ignore-eos --quiet)
for run in 1 2 3; do
    say "run $run of 3"
    unset_switches env BITNET_TRACE_TIMING=1 "${command[@]}" >"$work/stdout.$run" 2>"$work/stderr.$run" \
        || die "run $run failed: $(tail -n 3 "$work/stderr.$run")"
    grep '^timing: ' "$work/stderr.$run" >"$work/lines.$run" || die "run $run: no timing line on stderr"
    awk -v tokens="$tokens" '
        BEGIN { split("embed forward logits sample", order) }
        { phase = order[(NR - 1) % 4 + 1] }
        $0 !~ "^timing: " phase "_us=[0-9]+$" { print "line " NR ": expected " phase "_us, found " $0; bad = 1; exit 1 }
        END { if (!bad && NR != 4 * tokens) { print NR " lines, expected four for each of " tokens " tokens"; exit 1 } }
    ' "$work/lines.$run" >"$work/odd" || die "run $run: $(cat "$work/odd")"
    cmp -s "$work/stdout.1" "$work/stdout.$run" || die "run $run printed another text than run 1"
done

# median FILE...: of the numbers in them.
median() {
    sort -n "$@" | awk '{ v[NR] = $1 } END {
        if (NR == 0) exit 1
        printf "%g\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
    }' || die "no samples"
}

# row PHASE first|rest: one line of a table.
row() {
    local run files=() medians=()
    for run in 1 2 3; do
        sed -n "s/^timing: $1_us=//p" "$work/lines.$run" >"$work/all"
        if [[ $2 == first ]]; then
            head -n 1 "$work/all" >"$work/$run.samples"
        else
            tail -n +2 "$work/all" >"$work/$run.samples"
        fi
        files+=("$work/$run.samples")
        medians+=("$(median "$work/$run.samples")")
    done
    echo "| $1 | ${medians[0]} | ${medians[1]} | ${medians[2]} | **$(median "${files[@]}")** |"
}

table() {
    local phase
    echo "| phase (us) | run 1 | run 2 | run 3 | median of all |"
    echo "|---|--:|--:|--:|--:|"
    for phase in embed forward logits sample; do
        row "$phase" "$1"
    done
}

{
    echo "# Time per token and phase"
    echo
    {
        text_header phase2_timing_i2s
        echo "features: instrument"
        text_model
        echo "command: BITNET_TRACE_TIMING=1 $(shown_command "${command[@]}")"
    } | sed 's/^/- /'
    echo
    echo "## Decode: medians over tokens 1 to $((tokens - 1)) of each run, and over all three runs"
    echo
    table rest
    echo
    echo "## First token: \`forward\` is the whole prompt"
    echo
    table first
    for run in 1 2 3; do
        echo
        echo "## Raw lines of run $run"
        echo
        sed 's/^/    /' "$work/lines.$run"
    done
} >"$work/receipt"
write_receipt phase2_timing_i2s.md "$work/receipt"
