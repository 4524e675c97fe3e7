#!/usr/bin/env bash
# Phase 2: where a token's time goes. Three runs with BITNET_TRACE_TIMING=1, and the median of each phase.
#
# Usage: scripts/perf_phase2_timing.sh [MODEL] [TOKENIZER]
#
# MODEL defaults to models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf, TOKENIZER to the
# tokenizer.json beside the model; without that model one is synthesized, whose tokens take milliseconds, and the receipt
# says so. (Those of the demo model take less than 100 us, of which whole microseconds cannot tell 2 %.)
# TOKENS=32 in the environment sets how many tokens each run generates.
#
# The first token of a run is kept apart: its forward pass is the whole prompt. Fails if a run gives anything but four
# lines per token, if the runs choose different tokens, or if the sum of all lines of a run is not within 2 % of the
# loop's time: `prompt` and `eval` of `run --json`, which add up what every token took from its request to its choice. Of
# the three runs the middle one counts, since another program may take the CPU between two phases. Fails, too, where
# tokens take less than 100 us, since nothing could be checked. The time in which lines are written belongs to no token;
# the receipt has the time from the first request to the last choice, too, which includes it.
#
# Writes receipts/phase2_timing_i2s.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ ${1:-} != -* ]] || die "$1: unknown argument; see --help"
[[ $# -le 2 ]] || die "expected at most two arguments; see --help"
tokens=${TOKENS:-32}
[[ $tokens =~ ^[0-9]+$ && $tokens -ge 2 ]] || die "TOKENS=$tokens: expected a number from 2"

build instrument
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ $# -gt 0 || -f $PUBLISHED ]]; then
    choose_model "$@"
else
    MODEL=$work/synth.gguf
    synth=(synth --shape large --layers 8 --vocab 2048 --seed 1)
    MODEL_IS="synthesized: bitnet ${synth[*]}"
    INPUT=(--tokens "1,2,3,4,5,6,7,8")
    say "model: $MODEL_IS"
    "$INSTRUMENT" "${synth[@]}" --quiet "$MODEL" || die "cannot synthesize a model"
fi

command=("$INSTRUMENT" run --model "$MODEL" "${INPUT[@]}" -n "$tokens" --greedy --ignore-eos --quiet --json)

# ms NAME FILE: milliseconds of a phase, or of the whole, in what `run --json` printed.
ms() {
    local ms
    case $1 in
        wall) ms=$(sed -n 's/.*"wall_ms":\([0-9.e+-]*\).*/\1/p' "$2") ;;
        *) ms=$(sed -n 's/.*"'"$1"'":{"ms":\([0-9.e+-]*\).*/\1/p' "$2") ;;
    esac
    [[ -n $ms ]] || die "no time of $1 in the JSON of the run"
    echo "$ms"
}

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
    grep -o '"tokens":\[[0-9,]*\]' "$work/stdout.$run" >"$work/tokens.$run" || die "run $run: no tokens in its JSON"
    cmp -s "$work/tokens.1" "$work/tokens.$run" || die "run $run chose other tokens than run 1"
    prompt=$(ms prompt "$work/stdout.$run")
    eval=$(ms eval "$work/stdout.$run")
    wall=$(ms wall "$work/stdout.$run")
    sed 's/.*=//' "$work/lines.$run" | awk -v n="$tokens" -v prompt="$prompt" -v eval="$eval" -v wall="$wall" '
        { sum += $1 / 1000 }
        END { printf "%.3f %.3f %.4f %.3f %.6f\n", sum, prompt + eval, sum / (prompt + eval), wall, eval / (n - 1) }
    ' >>"$work/shares"
done
awk '{ sum += $5 } END { exit !(sum / NR >= 0.1) }' "$work/shares" \
    || die "$(shown "$MODEL"): its tokens take less than 100 us, of which whole microseconds cannot tell 2 %: give a larger model"
share=$(sort -k 3,3 -n "$work/shares" | awk 'NR == 2 { print $3 }')
awk -v share="$share" 'BEGIN { exit !(share >= 0.98 && share <= 1.02) }' \
    || die "the four lines of all tokens are $share of the loop's time, expected 0.98 to 1.02"

# median FILE...: of the numbers in them.
median() {
    sort -n "$@" | awk '{ v[NR] = $1 } END {
        if (NR == 0) exit 1
        printf "%g\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
    }' || die "no samples"
}

# row PHASE first|rest: one line of a table.
row() {
    local run median files=() medians=()
    for run in 1 2 3; do
        sed -n "s/^timing: $1_us=//p" "$work/lines.$run" >"$work/all"
        if [[ $2 == first ]]; then
            head -n 1 "$work/all" >"$work/$run.samples"
        else
            tail -n +2 "$work/all" >"$work/$run.samples"
        fi
        files+=("$work/$run.samples")
        median=$(median "$work/$run.samples")
        medians+=("$median")
    done
    median=$(median "${files[@]}")
    echo "| $1 | ${medians[0]} | ${medians[1]} | ${medians[2]} | **$median** |"
}

table() {
    local phase
    echo "| phase (us) | run 1 | run 2 | run 3 | median of all |"
    echo "|---|--:|--:|--:|--:|"
    for phase in embed forward logits sample; do
        row "$phase" "$1"
    done
}

ask_engine "$INSTRUMENT"
shown=$(shown_command "${command[@]}")
{
    echo "# Time per token and phase"
    echo
    {
        text_header phase2_timing_i2s
        echo "features: instrument"
        text_binary "$INSTRUMENT"
        text_model
        echo "command: BITNET_TRACE_TIMING=1 $shown"
    } | sed 's/^/- /'
    echo
    echo "## Decode: medians over tokens 1 to $((tokens - 1)) of each run, and over all three runs"
    echo
    table rest
    echo
    echo "## First token: \`forward\` is the whole prompt"
    echo
    table first
    echo
    echo "## The four lines of all tokens against the loop's time, in ms: within 2 % in the middle run"
    echo
    echo "| run | sum of the lines | loop | share | with lines being written |"
    echo "|--:|--:|--:|--:|--:|"
    awk '{ print "| " NR " | " $1 " | " $2 " | " $3 " | " $4 " |" }' "$work/shares"
    for run in 1 2 3; do
        echo
        echo "## Raw lines of run $run"
        echo
        sed 's/^/    /' "$work/lines.$run"
    done
} >"$work/receipt"
write_receipt phase2_timing_i2s.md "$work/receipt"
