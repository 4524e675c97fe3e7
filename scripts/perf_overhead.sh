#!/usr/bin/env bash
# What the annotations cost in decode: the plain build against the instrumented one, switches unset and set.
#
# Usage: scripts/perf_overhead.sh [MODEL] [ROUNDS]
#
# MODEL defaults to a synthesized one of the 2B-4T shape (1.2 GB, kept in target-instrument), ROUNDS to 30.
# TOKENS=129 in the environment sets how many tokens a run generates; the first, which holds the prompt and the
# making of the head's screen, is not counted.
#
# Each round runs four things: plain, instrumented with every switch unset, instrumented with BITNET_TRACE_TIMING=1 and
# BITNET_TRACE_QUANT=1, and plain again. Over six rounds each of them follows each other one equally often, and stands
# equally early and late; so ROUNDS is best a multiple of six. A sample is the time from one token to the next, the
# writing of trace lines included. A ratio's base is the mean of the two plain runs of its round; the second of them
# against the first is the noise: what differs when nothing does.
#
# A ratio is the median over the rounds, with its 95 % interval out of the order of the samples. The limits are 0.2 %
# unset and 1 % set. `within_limits` is true if the whole interval lies within, false if none of it does, and null, with
# the noise in words, if the limit lies inside it. A single span, unset and recording, is measured by the engine's own
# bench of it, whose limits are 1 and 40 ns. The script fails if a limit is broken.
#
# There is next to no noise in the number of instructions that a thread executes from one token to the next: where valgrind
# is installed, they are counted, with one thread and AVX2, which is what valgrind knows, and held to the same limits. A
# run with the switches set first calibrates its clock, for a few million instructions more or less; shared by 32 tokens,
# they are less than 0.1 % of each.
#
# Writes receipts/overhead.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ ${1:-} != -* ]] || die "$1: unknown argument; see --help"
[[ $# -le 2 ]] || die "expected at most two arguments; see --help"
rounds=${2:-30}
tokens=${TOKENS:-129}
[[ $rounds =~ ^[0-9]+$ && $rounds -ge 2 ]] || die "ROUNDS $rounds: expected a number from 2"
[[ $tokens =~ ^[0-9]+$ && $tokens -ge 2 ]] || die "TOKENS=$tokens: expected a number from 2"
[[ -z ${1:-} || -f $1 ]] || die "$1: no such model file"

build plain
build instrument
choose_model_or_synth "${1:-}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The packing is given: `auto` measures at each start and may choose differently, which is no cost of annotations.
arguments=(run --model "$MODEL" "${INPUT[@]}" --weights tri5 -n "$tokens" --greedy --ignore-eos --quiet --json)
set_switches=(BITNET_TRACE_TIMING=1 BITNET_TRACE_QUANT=1)

# sample NAME: one run, whose milliseconds per decoded token are appended to $work/NAME.
sample() {
    local -a command
    case $1 in
        plain | again) command=("$PLAIN") ;;
        unset) command=("$INSTRUMENT") ;;
        set) command=(env "${set_switches[@]}" "$INSTRUMENT") ;;
    esac
    unset_switches "${command[@]}" "${arguments[@]}" >"$work/json" 2>"$work/stderr" \
        || die "a run of $1 failed: $(tail -n 3 "$work/stderr")"
    if [[ $1 == set ]]; then
        [[ $(grep -c '^timing: ' "$work/stderr") -eq $((4 * tokens)) ]] || die "the set run did not trace"
    else
        [[ ! -s $work/stderr ]] || die "$1: expected a silent stderr, found: $(head -n 1 "$work/stderr")"
    fi
    perl -ne 'if (/"eval":\{"ms":[^,]*,"n":(\d+)/) { $n = $1 } else { next }
        printf "%.9g\n", ($2 - $1) / $n if /"prompt":\{"ms":([0-9.e+-]+),.*"wall_ms":([0-9.e+-]+)/' \
        "$work/json" >"$work/one"
    [[ -s $work/one ]] || die "no times in the output of $1"
    cat "$work/one" >>"$work/$1"
}

# Each of the twelve pairs of neighbours twice, the step from the last line to the first included; the sum of each
# name's places is the same.
orders=(
    "plain unset set again"
    "plain unset again set"
    "again set unset plain"
    "set plain again unset"
    "set unset again plain"
    "again unset plain set"
)
for name in plain unset set again; do
    sample "$name" # warm up: the file, the binaries
    rm "$work/$name"
done
for ((round = 0; round < rounds; round++)); do
    say "round $((round + 1)) of $rounds"
    for name in ${orders[round % 6]}; do
        sample "$name"
    done
done
ask_engine "$PLAIN"

# instructions NAME TOKENS: how many a run executes that generates so many tokens.
instructions() {
    local -a run=(valgrind --tool=callgrind --callgrind-out-file=/dev/null)
    case $1 in
        plain) run+=("$PLAIN") ;;
        unset) run+=("$INSTRUMENT") ;;
        set) run=(env "${set_switches[@]}" "${run[@]}" "$INSTRUMENT") ;;
    esac
    unset_switches "${run[@]}" "${counted[@]}" -n "$2" >/dev/null 2>"$work/valgrind" \
        || die "counting the instructions of $1 failed: $(tail -n 3 "$work/valgrind")"
    sed -n 's/^==[0-9]*== Collected : \([0-9]*\)$/\1/p' "$work/valgrind" | grep . || die "valgrind counted nothing of $1"
}

counted=(run --model "$MODEL" "${INPUT[@]}" --weights map --isa avx2 -t 1 --greedy --ignore-eos --quiet)
few=2
many=34
counts=null
counts_within=true
if command -v valgrind >/dev/null; then
    for name in plain unset set; do
        say "instructions, $name"
        # One after the other: within an expression a count that failed would be nothing, and nobody would see it.
        more=$(instructions "$name" "$many")
        less=$(instructions "$name" "$few")
        echo $(((more - less) / (many - few))) >"$work/count_$name"
    done
    counts=$(awk -v many="$many" -v few="$few" '{ n[NR] = $1 } END {
        printf "{ \"tokens\": [%d, %d], \"plain\": %d, \"unset\": %d, \"set\": %d, ", few, many, n[1], n[2], n[3]
        printf "\"unset_ratio\": %.6f, \"set_ratio\": %.6f, ", n[2] / n[1], n[3] / n[1]
        printf "\"limits\": [1.002, 1.01], \"within_limits\": %s }",
            n[2] <= 1.002 * n[1] && n[3] <= 1.01 * n[1] ? "true" : "false"
    }' "$work/count_plain" "$work/count_unset" "$work/count_set")
    [[ $counts != *'"within_limits": false'* ]] || counts_within=false
fi

say "single spans"
spans_within=true
spans=$(bench_of trace --features instrument --target-dir target-instrument)
run_bench "$spans" --check >"$work/spans" || spans_within=false
# What it printed, one JSON member a line.
perl -ne 'push @m, sprintf(q(    "%s": { "median_ns": %s, "least": %s, "most": %s, "limit": %s }), $1, $2, $3, $4, $5)
    if /^(\S.*?)\s+(-?[0-9.]+) ns per span \((-?[0-9.]+) to (-?[0-9.]+)\), limit ([0-9.]+)$/;
    END { @m == 4 or die "expected four lines\n"; print join(",\n", @m), "\n" }' "$work/spans" >"$work/spans.json" \
    || die "the bench of a span failed"

# ratio NAME BASE [LIMIT]: NAME against BASE, round by round, as a JSON object. The interval of the median is the
# narrowest pair of samples, as far from either end, that holds it with 95 % probability: the number of samples below
# the median is binomial. Fewer than six have no such pair, and then least and most are given.
ratio() {
    paste "$work/$1" "$work/$2" | awk '{ printf "%.8f\n", $1 / $2 }' | sort -n | awk -v limit="${3:-}" '
        { v[NR] = $1 }
        function at(q,   x, i) { x = 1 + q * (NR - 1); i = int(x); return v[i] + (x - i) * (v[i < NR ? i + 1 : i] - v[i]) }
        END {
            # below: the probability that fewer than k samples lie below the median.
            term = 2 ^ -NR
            below = term
            for (k = 1; k < NR / 2; k++) {
                term *= (NR - k + 1) / k
                if (below + term > 0.025) break
                below += term
            }
            low = v[k]
            high = v[NR + 1 - k]
            noise = (high - low) / 2
            printf "{ \"median\": %.5f, \"interval\": [%.5f, %.5f], \"probability\": %.3f, ", at(0.5), low, high, 1 - 2 * below
            printf "\"quartiles\": [%.5f, %.5f], \"least\": %.5f, \"most\": %.5f", at(0.25), at(0.75), v[1], v[NR]
            if (limit != "") {
                within = "null"
                verdict = sprintf("within noise of +-%.2f %%", noise * 100)
                if (high <= limit) { within = "true"; verdict = "within the limit" }
                if (low > limit) { within = "false"; verdict = "slower than the limit" }
                if (below > 0.025) { within = "null"; verdict = "too few rounds" }
                printf ", \"limit\": %s, \"within_limits\": %s, \"verdict\": \"%s\"", limit, within, verdict
            }
            print " }"
        }'
}

paste "$work/plain" "$work/again" | awk '{ printf "%.9g\n", ($1 + $2) / 2 }' >"$work/base"
noise=$(ratio again plain)
unset=$(ratio unset base 1.002)
set=$(ratio set base 1.01)
case "\"within_limits\": $spans_within \"within_limits\": $counts_within $unset $set" in
    *'"within_limits": false'*) within=false ;;
    *'"within_limits": null'*) within=null ;;
    *) within=true ;;
esac
shown=$(shown_command bitnet "${arguments[@]}")
{
    echo "{"
    json_header overhead
    json_model
    echo '  "features": { "plain": "", "again": "", "unset": "instrument", "set": "instrument" },'
    echo "  \"set_switches\": [\"${set_switches[0]}\", \"${set_switches[1]}\"],"
    member command "$shown"
    json_binaries "$PLAIN" "$INSTRUMENT" "$spans"
    echo '  "spans": {'
    cat "$work/spans.json"
    echo '  },'
    echo "  \"spans_within_limits\": $spans_within,"
    member instructions_command "$(shown_command bitnet "${counted[@]}") -n $few, and -n $many"
    echo "  \"instructions\": $counts,"
    echo "  \"rounds\": $rounds,"
    member unit "ms per decoded token; a ratio's base is the mean of both plain runs of its round, that of the noise the first; above 1 is slower"
    echo "  \"noise\": $noise,"
    echo "  \"unset\": $unset,"
    echo "  \"set\": $set,"
    echo "  \"within_limits\": $within,"
    for name in plain unset set again; do
        samples=$(paste -s -d, "$work/$name" | sed 's/,/, /g')
        echo "  \"samples_$name\": [$samples],"
    done
    echo '  "order": ['
    printf '    "%s"\n' "${orders[@]}" | sed '$!s/$/,/'
    echo '  ]'
    echo "}"
} >"$work/receipt"
write_receipt overhead.json "$work/receipt"
say "unset: $unset"
say "set:   $set"
say "instructions of a token: $counts"
cat "$work/spans" >&2
[[ $within != false ]] || die "a limit is broken; see the receipt"
