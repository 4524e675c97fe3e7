#!/usr/bin/env bash
# Asks the demo model inside the binary the questions of its examination, and fails if it knows too few answers or if
# an instruction set or a number of threads changes a single bit of a logit.
#
# Usage: scripts/eval_demo.sh
#
# The minimum is 99.5 % of sums and differences to 99, also of those below zero, 99 % of sums to 999 and of differences
# that are not below zero, all 144 products of 1 to 12, and 97 % of every other task. All questions are asked again with
# each vector instruction set this machine has on two threads, and with the default one on one thread and on three;
# every seventh with each instruction set, the scalar one too, on one thread, two and three. The hash over all logits
# has to be the same.
#
# Writes receipts/demo_eval.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"

questions=$ROOT/bitnet-cli/tests/data/demo_eval.tsv
# Tasks, questions each has to have at least, and the percentage to be right.
examination='
add_99           100  99.5
sub_99           100  99.5
negative         100  99.5
add_999          100  99
sub_999          100  99
add_999_unseen   100  99
negative_999     200  97
product          144  100
compare          100  97
word_sum         100  97
word_difference  100  97
word_product     100  97
word_compare     100  97
reverse          100  97
sort             100  97
chat_question    100  97
chat_turns       100  97
chat_talk        50   97
chat_other       50   97
'
build plain
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

least=()
tasks=()
while read -r task n percent; do
    [[ -n $task ]] || continue
    asked=$(cut -f 1 "$questions" | grep -c -x -F "$task") || true
    [[ $asked -ge $n ]] || die "$questions: $task: expected at least $n questions, found $asked"
    tasks+=("$task")
    least+=(--min "$task=$percent")
done <<<"$examination"
unknown=$(cut -f 1 "$questions" | sort -u | grep -v -x -F -f <(printf '%s\n' "${tasks[@]}")) || true
[[ -z $unknown ]] || die "$questions: no minimum is known for ${unknown//$'\n'/, }"
products=$(grep '^product'$'\t' "$questions" | sort -u | wc -l)
[[ $products -eq 144 ]] || die "$questions: expected 144 different products, found $products"
n_all=$(wc -l <"$questions")
[[ $n_all -ge 500 ]] || die "$questions: expected at least 500 questions, found $n_all"

mkdir -p "$RECEIPTS"
receipt=$RECEIPTS/demo_eval.json
(cd "$ROOT" && "$(shown "$PLAIN")" eval --quiet --data "$(shown "$questions")" "${least[@]}" \
    --receipt "${RECEIPTS#"$ROOT"/}/demo_eval.json" --force) || die "the demo model knows too few answers"

# The hash over all logits in a JSON object.
hash_in() {
    local found
    found=$(sed -n 's/.*"logits_sha256": *"\([0-9a-f]\{64\}\)".*/\1/p' "$1")
    [[ -n $found ]] || die "$1: no hash of logits"
    echo "$found"
}

# compare QUESTIONS EXPECTED_HASH ISA THREADS: the same hash, and a line for the receipt.
compare() {
    local found n
    "$PLAIN" eval --quiet --data "$1" --json --isa "$3" -t "$4" >"$work/found" || die "--isa $3 -t $4: it failed"
    found=$(hash_in "$work/found")
    [[ $found == "$2" ]] || die "--isa $3 -t $4: other logits than by default: $found, expected $2"
    n=$(wc -l <"$1")
    compared+=("{ \"isa\": \"$3\", \"threads\": $4, \"questions\": $((n)), \"logits_sha256\": \"$found\" }")
}

all=$(hash_in "$receipt")
sed -n '1~7p' "$questions" >"$work/seventh"
"$PLAIN" eval --quiet --data "$work/seventh" --json >"$work/expected"
seventh=$(hash_in "$work/expected")
compared=()
isas=()
for isa in scalar avx2 avx512 neon; do
    code=0
    "$PLAIN" run --isa "$isa" -p "2+2=" --quiet >"$work/has" 2>&1 || code=$?
    [[ $code -ne 2 ]] || continue # not this machine's
    [[ $code -eq 0 ]] || die "--isa $isa: exit $code: $(tail -n 3 "$work/has")"
    [[ $isa == scalar ]] || compare "$questions" "$all" "$isa" 2
    for threads in 1 2 3; do
        compare "$work/seventh" "$seventh" "$isa" "$threads"
    done
    isas+=("$isa")
done
[[ ${#isas[@]} -ge 2 ]] || die "expected two instruction sets at least, found: ${isas[*]}"
compare "$questions" "$all" auto 1
compare "$questions" "$all" auto 3

# What was compared becomes the receipt's last member.
{
    sed '$d' "$receipt" | sed '$s/$/,/'
    echo '  "compared": ['
    printf '    %s,\n' "${compared[@]}" | sed '$s/,$//'
    echo '  ]'
    echo '}'
} >"$work/receipt"
write_receipt demo_eval.json "$work/receipt"
say "$n_all questions, of scalar every seventh: the same logits with ${isas[*]}, and on one thread, two and three"
