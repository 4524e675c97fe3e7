#!/usr/bin/env bash
# How fast another engine is on the same file and machine: our `bitnet bench` and another engine's llama-bench in turn.
#
# Usage: scripts/perf_peer.sh LLAMA_BENCH MODEL [ROUNDS]
#
# LLAMA_BENCH is the path of the binary, bitnet.cpp's or that of any llama.cpp that reads MODEL; ROUNDS defaults to 6.
# In the environment THREADS=1,2 lists the thread counts, and N_PROMPT=128 and N_GEN=64 are the lengths of the two
# tests: prefill, and decode from an empty context.
#
# A round runs, for each thread count, both engines one after the other: ours first in odd rounds, theirs first in even
# ones; so ROUNDS is best even. Each run warms up by itself and takes one sample of each test. Both engines run as they
# come, except that theirs is kept off a GPU: ours decodes with the screened head, which computes the largest logit,
# theirs with the full one. The machine has to be idle: threads that wait for each other suffer from company, and not
# equally in both engines. `bitnet bench` refuses a result above what it measured the machine to be able to do; such a
# run is repeated, at most three times, and the receipt counts the refusals.
#
# A ratio is ours to theirs within a round, and above 1 is faster; its median is over the rounds. The limits are for
# decode, at least 1.6 with two threads and 1.5 with one. The receipt says whether the median reaches them; missing one
# is a result, not a failure.
#
# Writes receipts/peer.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
for argument in "$@"; do
    [[ $argument != -* ]] || die "$argument: unknown argument; see --help"
done
[[ $# -ge 2 && $# -le 3 ]] || die "expected two or three arguments; see --help"
rounds=${3:-6}
n_prompt=${N_PROMPT:-128}
n_gen=${N_GEN:-64}
threads=${THREADS:-1,2}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "ROUNDS $rounds: expected a number from 1"
[[ $n_prompt =~ ^[1-9][0-9]*$ ]] || die "N_PROMPT=$n_prompt: expected a number from 1"
[[ $n_gen =~ ^[1-9][0-9]*$ ]] || die "N_GEN=$n_gen: expected a number from 1"
[[ $threads =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || die "THREADS=$threads: expected numbers from 1, with commas between"
IFS=, read -r -a counts <<<"$threads"
[[ -z $(printf '%s\n' "${counts[@]}" | sort | uniq -d) ]] || die "THREADS=$threads: expected each number once"
[[ -f $1 && -x $1 ]] || die "$1: no such executable"
[[ -f $2 ]] || die "$2: no such model file"
need_json_pp
PEER=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)/$(basename -- "$1")

build plain
choose_model "$2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
refused=0

# command_of ours|theirs COUNT: sets COMMAND to the run with so many threads.
command_of() {
    case $1 in
        ours) COMMAND=("$PLAIN" bench -q -m "$MODEL") ;;
        theirs) COMMAND=("$PEER" -ngl 0 -m "$MODEL") ;;
    esac
    COMMAND+=(-p "$n_prompt" -n "$n_gen" -t "$2" -r 1 -o json)
}

# last_words: the last line that a run left on stderr; the shell's notice of a crash is none of them.
last_words() {
    sed '/: line [0-9]*: /d' "$work/stderr" | tail -n 1
}

# bench ours|theirs: runs COMMAND into $work/json, anew if ours refuses its result.
bench() {
    local repeats=0 status
    while true; do
        status=0
        unset_switches "${COMMAND[@]}" >"$work/json" 2>"$work/stderr" || status=$?
        [[ $status -ne 0 ]] || return 0
        [[ $1 == ours && $status -eq 5 && $repeats -lt 3 ]] || break
        repeats=$((repeats + 1))
        refused=$((refused + 1))
        say "again: $(last_words)"
    done
    die "$(shown "${COMMAND[0]}") failed with exit code $status: $(last_words)"
}

# sample ours|theirs COUNT: one run, whose tokens per second are appended to $work/NAME.pp.COUNT and
# $work/NAME.tg.COUNT. What the engine says of itself is left in $work/NAME.says.
sample() {
    command_of "$1" "$2"
    bench "$1"
    # Out of times, because llama-bench rounds its rates to six digits.
    perl -MJSON::PP -e '
        my ($p, $n, $threads, $to) = @ARGV;
        local $/;
        my $rows = eval { decode_json(<STDIN>) };
        ref $rows eq "ARRAY" or die "its output is no JSON list\n";
        sub put { open my $out, $_[0], $_[1] or die "$!\n"; print $out $_[2]; close $out or die "$!\n" }
        for (["pp", $p, 0], ["tg", 0, $n]) {
            my ($test, $n_prompt, $n_gen) = @$_;
            my $tokens = $n_prompt + $n_gen;
            my @ns = map { @{$_->{samples_ns}} }
                grep { $_->{n_prompt} == $n_prompt && $_->{n_gen} == $n_gen && $_->{n_threads} == $threads } @$rows;
            @ns == 1 && $ns[0] > 0 or die "expected one sample of $test$tokens, found " . @ns . "\n";
            put ">>", "$to.$test.$threads", sprintf("%.9g\n", 1e9 * $tokens / $ns[0]);
        }
        my $first = $rows->[0];
        my %says = map { $_ => $first->{$_} } grep { exists $first->{$_} } qw(build_commit build_number backends
            cpu_info model_type isa head n_batch n_ubatch type_k type_v flash_attn use_mmap);
        put ">", "$to.says", JSON::PP->new->canonical->encode(\%says);
    ' "$n_prompt" "$n_gen" "$2" "$work/$1" <"$work/json" 2>"$work/stderr" \
        || die "$(shown "${COMMAND[0]}"): $(last_words)"
}

say "warming up"
ask_engine "$PLAIN"
THREADS="[${threads//,/, }]" # those that are measured, not the engine's own choice
unset_switches "$PEER" -ngl 0 -m "$MODEL" -p 0 -n 1 -t "${counts[0]}" -r 1 -o json >"$work/json" 2>"$work/stderr" \
    || die "$(shown "$PEER") cannot run $(shown "$MODEL"): $(last_words)"
! grep -q '"gpu_info": *"[^"]' "$work/json" || die "$(shown "$PEER") is built for a GPU, expected one for the CPU alone"
for ((round = 1; round <= rounds; round++)); do
    say "round $round of $rounds"
    order=(ours theirs)
    [[ $((round % 2)) -eq 1 ]] || order=(theirs ours)
    for count in "${counts[@]}"; do
        for name in "${order[@]}"; do
            sample "$name" "$count"
        done
    done
done

# summary FILE [LIMIT]: what is known of the numbers in it, as a JSON object.
summary() {
    local samples
    samples=$(paste -s -d, "$1" | sed 's/,/, /g')
    sort -n "$1" | awk -v samples="$samples" -v limit="${2:-}" '
        { v[NR] = $1 }
        function at(q,   x, i) {
            x = 1 + q * (NR - 1)
            i = int(x)
            return v[i] + (x - i) * (v[i < NR ? i + 1 : i] - v[i])
        }
        END {
            printf "{ \"median\": %.5g, \"quartiles\": [%.5g, %.5g], ", at(0.5), at(0.25), at(0.75)
            printf "\"least\": %.5g, \"most\": %.5g, \"samples\": [%s]", v[1], v[NR], samples
            if (limit != "") printf ", \"limit\": %s, \"reached\": %s", limit, (at(0.5) >= limit + 0) ? "true" : "false"
            print " }"
        }'
}

reached=null
for count in "${counts[@]}"; do
    for test in pp tg; do
        case $test.$count in
            pp.*) name=pp$n_prompt limit="" ;;
            tg.1) name=tg$n_gen limit=1.5 ;;
            tg.2) name=tg$n_gen limit=1.6 ;;
            tg.*) name=tg$n_gen limit="" ;;
        esac
        paste "$work/ours.$test.$count" "$work/theirs.$test.$count" | awk '{ printf "%.5f\n", $1 / $2 }' >"$work/ratio"
        ours=$(summary "$work/ours.$test.$count")
        theirs=$(summary "$work/theirs.$test.$count")
        ratio=$(summary "$work/ratio" "$limit")
        case $ratio in
            *'"reached": false'*) reached=false ;;
            *'"reached": true'*) [[ $reached == false ]] || reached=true ;;
        esac
        [[ ! -s $work/tests ]] || echo "    }," >>"$work/tests"
        {
            echo "    {"
            echo "      \"test\": \"$name\","
            echo "      \"threads\": $count,"
            echo "      \"ours\": $ours,"
            echo "      \"theirs\": $theirs,"
            echo "      \"ratio\": $ratio"
        } >>"$work/tests"
        say "$name, threads $count: $ratio"
    done
done
echo "    }" >>"$work/tests"

# engine NAME BINARY: a member that says what was measured.
engine() {
    printf '  "%s": { ' "$1"
    json_binary "$2"
    echo ", \"says\": $(<"$work/$1.says") },"
}

for count in "${counts[@]}"; do
    for name in ours theirs; do
        command_of "$name" "$count"
        shown=$(shown_command "${COMMAND[@]}")
        json "$shown"
        echo
    done
done >"$work/commands"
{
    echo "{"
    json_header peer
    json_model
    engine ours "$PLAIN"
    engine theirs "$PEER"
    echo '  "commands": ['
    sed -e 's/^/    /' -e '$!s/$/,/' "$work/commands"
    echo '  ],'
    echo "  \"rounds\": $rounds,"
    member order "ours first in odd rounds, theirs in even ones; in each round for every thread count"
    echo "  \"refused_and_repeated\": $refused,"
    member unit "tokens per second, in the order of rounds; a ratio is ours to theirs, above 1 is faster"
    echo '  "tests": ['
    cat "$work/tests"
    echo '  ],'
    echo "  \"limits_reached\": $reached"
    echo "}"
} >"$work/receipt"
write_receipt peer.json "$work/receipt"
