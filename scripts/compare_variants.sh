#!/usr/bin/env bash
# Both variants must do the same thing: same text, same logits to the bit, same `inspect`, and nothing on stderr,
# while no switch is set; and with every switch on, the instrumented one must print the same text, trace the logits that
# the plain one records, four times for every token and every matrix once, and write a trace file that parses.
#
# Usage: scripts/compare_variants.sh [MODEL]...
#
# Without arguments: models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf or, where that is absent, the demo
# model's file, and the golden models. The model embedded in the binary is compared where the tree holds one
# (bitnet-cli/assets/demo.gguf); the receipt says whether it was. Any difference fails, and so does a set of models
# whose texts are all the same one.
#
# Writes receipts/variants.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
for model in "$@"; do
    [[ $model != -* ]] || die "$model: unknown argument; see --help"
    [[ -f $model ]] || die "$model: no such model file"
done
need_json_pp

build plain
build instrument
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/results"
: >"$work/texts"

# same NAME FLAGS...: runs both variants with the flags and appends one JSON object to $work/results.
same() {
    local name=$1 sha256 bytes command
    shift
    command="bitnet $(shown_command "$@")"
    say "comparing: $command"
    unset_switches "$PLAIN" "$@" >"$work/plain" 2>"$work/plain.err" \
        || die "$name: the plain variant failed: $(tail -n 3 "$work/plain.err")"
    unset_switches "$INSTRUMENT" "$@" >"$work/unset" 2>"$work/unset.err" \
        || die "$name: the instrument variant failed: $(tail -n 3 "$work/unset.err")"
    [[ -s $work/plain ]] || die "$name: nothing on stdout, so nothing was compared"
    cmp "$work/plain" "$work/unset" || die "$name: the variants print different things"
    [[ ! -s $work/plain.err ]] || die "$name: the plain variant's stderr is not silent: $(head -n 1 "$work/plain.err")"
    [[ ! -s $work/unset.err ]] \
        || die "$name: the instrument variant's stderr is not silent while unset: $(head -n 1 "$work/unset.err")"
    sha256=$(sha256 "$work/plain")
    bytes=$(size "$work/plain")
    {
        [[ ! -s $work/results ]] || echo ","
        printf '    {"what": '
        json "$name"
        printf ', "command": '
        json "$command"
        printf ', "stdout_sha256": "%s", "stdout_bytes": %s, "identical": true, "stderr_bytes": 0}' "$sha256" "$bytes"
    } >"$work/result"
    cat "$work/result" >>"$work/results"
}

# Tokens that are generated, end tokens among them: as many lines of logits.
STEPS=16

# traced NAME FLAGS...: `run` with every switch on. Its stdout must be $work/text, its parity lines $work/logits, and the
# matrices it names those with a kernel in $work/inspect: what `run`, `parity --record` and `inspect` of the plain variant
# gave.
traced() {
    local name=$1 n
    shift
    rm -f "$work/trace.json"
    env BITNET_PARITY=1 BITNET_TRACE_QUANT=1 BITNET_TRACE_TIMING=1 BITNET_TRACE_FILE="$work/trace.json" \
        "$INSTRUMENT" "$@" >"$work/set" 2>"$work/set.err" \
        || die "$name: the instrument variant failed with its switches set: $(tail -n 3 "$work/set.err")"
    cmp "$work/text" "$work/set" || die "$name: setting the switches changes what is printed"
    sed -n '/^{"step":/p' "$work/set.err" >"$work/set.logits"
    n=$(grep -c '^{"step":' "$work/logits") || true
    [[ $n -eq $STEPS ]] || die "$name: expected $STEPS recorded steps, found $n"
    cmp "$work/logits" "$work/set.logits" || die "$name: the traced logits are not the recorded ones"
    n=$(grep -c '^timing: ' "$work/set.err") || true
    [[ $n -eq $((4 * STEPS)) ]] || die "$name: expected four timing lines for each of $STEPS tokens, found $n"
    sed -n 's/^quant_dispatch: tensor=\([^ ]*\) .*/\1/p' "$work/set.err" | sort >"$work/set.matrices"
    cmp "$work/matrices" "$work/set.matrices" || die "$name: the traced matrices are not those with a kernel, each once"
    check_trace "$work/trace.json" || die "$name: BITNET_TRACE_FILE was set, but the trace is not one"
}

# matrices INSPECT: the names of the tensors that it says are multiplied by, sorted.
matrices() {
    perl -MJSON::PP -e '
        my $tensors = decode_json(do { local $/; <STDIN> })->{tensors};
        print map { "$_->{name}\n" } grep { defined $_->{kernel} } @$tensors;
    ' <"$1" | sort
}

# check_trace FILE: a whole JSON document with spans of every token.
check_trace() {
    perl -MJSON::PP -e '
        my ($steps) = @ARGV;
        my $events = decode_json(do { local $/; <STDIN> })->{traceEvents};
        my %spans;
        $spans{$_->{name}}++ for grep { $_->{ph} eq "X" } @$events;
        for (qw(embed forward logits sample)) {
            my $n = $spans{$_} // 0;
            $n == $steps or die "expected $steps spans $_, found $n\n";
        }
    ' "$STEPS" <"$1"
}

# compare NAME FILE INPUT...: everything about one model; without a file, about the embedded one.
compare() {
    local name=$1 file=$2 model=() past_the_end
    shift 2
    [[ -z $file ]] || model=(-m "$file")
    same "inspect, $name" inspect --json ${file:+"$file"}
    matrices "$work/plain" >"$work/matrices"
    [[ -s $work/matrices ]] || die "$name: inspect names no kernel"
    same "logits, $name" parity --record - "${model[@]}" "$@" -n "$STEPS"
    cp "$work/plain" "$work/logits"
    same "run, $name" run "${model[@]}" "$@" -n "$STEPS" --greedy --quiet
    past_the_end=(run "${model[@]}" "$@" -n "$STEPS" --greedy --ignore-eos --quiet)
    same "run past end tokens, $name" "${past_the_end[@]}"
    cp "$work/plain" "$work/text"
    sha256 "$work/text" >>"$work/texts"
    traced "run past end tokens, $name" "${past_the_end[@]}"
}

compare_model() {
    local shown sha256 bytes
    choose_model "$@"
    compare "$(basename "$MODEL")" "$MODEL" "${INPUT[@]}"
    shown=$(shown "$MODEL")
    sha256=$(sha256 "$MODEL")
    bytes=$(size "$MODEL")
    {
        printf '    {"model": '
        json "$shown"
        printf ', "is": '
        json "$MODEL_IS"
        printf ', "sha256": "%s", "bytes": %s}\n' "$sha256" "$bytes"
    } >>"$work/models"
}

if [[ $# -eq 0 ]]; then
    compare_model
    for model in "$ROOT"/bitnet-core/tests/data/golden/*.gguf; do
        compare_model "$model"
    done
else
    for model in "$@"; do
        compare_model "$model"
    done
fi
ask_engine "$PLAIN"
isa=$ISA threads=$THREADS
ask_engine "$INSTRUMENT"
[[ "$isa $threads" == "$ISA $THREADS" ]] \
    || die "the plain variant computes with $isa on $threads threads, the other with $ISA on $THREADS"
embedded=false
if [[ -f $ROOT/bitnet-cli/assets/demo.gguf ]]; then
    embedded=true
    compare "embedded model" "" -p "12+34="
fi
# Two texts at least: a model that repeats its last token says the same whatever its weights are.
if [[ $(wc -l <"$work/texts") -gt 1 ]]; then
    different=$(sort -u "$work/texts" | wc -l)
    [[ $different -gt 1 ]] || die "all models printed the same text, so it hardly depends on what was computed"
fi

plain_sha256=$(sha256 "$PLAIN")
plain_bytes=$(size "$PLAIN")
instrument_sha256=$(sha256 "$INSTRUMENT")
instrument_bytes=$(size "$INSTRUMENT")
{
    echo "{"
    json_header variants
    echo "  \"features\": [\"\", \"instrument\"],"
    member command "$INVOKED"
    member isa "$ISA"
    echo "  \"threads\": $THREADS,"
    echo "  \"plain\": {\"sha256\": \"$plain_sha256\", \"bytes\": $plain_bytes},"
    echo "  \"instrument\": {\"sha256\": \"$instrument_sha256\", \"bytes\": $instrument_bytes},"
    echo "  \"models\": ["
    sed '$!s/$/,/' "$work/models"
    echo "  ],"
    echo "  \"compared\": ["
    cat "$work/results"
    echo
    echo "  ],"
    echo "  \"embedded_model_compared\": $embedded,"
    echo "  \"switches_set_stdout_identical\": true,"
    echo "  \"switches_set_logits_identical\": true,"
    echo "  \"switches_set_steps\": $STEPS,"
    echo "  \"switches_set_timing_lines_of_a_step\": 4,"
    echo "  \"switches_set_matrices_named_once\": true,"
    echo "  \"switches_set_trace_parsed\": true"
    echo "}"
} >"$work/receipt"
write_receipt variants.json "$work/receipt"
