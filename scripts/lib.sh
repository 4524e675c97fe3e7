# shellcheck shell=bash
# What the scripts share: where things are, how to fail, and what a receipt must say to be believed.
# Sourced, never run.
# shellcheck disable=SC2034  # most of its variables are for the scripts that source it

shopt -s inherit_errexit # a command that fails inside $(...) fails the script, too

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd) # with CDPATH set, cd may print
RECEIPTS=${BITNET_RECEIPTS:-$ROOT/receipts} # .ci/run has its own, so that the committed ones stay as they are
PLAIN=$ROOT/target-plain/release/bitnet
INSTRUMENT=$ROOT/target-instrument/release/bitnet

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

say() {
    echo "$*" >&2
}

# Prints the leading comment of the calling script, which is its help.
help_and_exit() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
}

# build plain|instrument: a release binary in the variant's own target directory.
build() {
    local features=()
    if [[ $1 == instrument ]]; then
        features=(--features instrument)
    fi
    say "building the $1 variant in target-$1"
    (cd "$ROOT" && cargo build --quiet --locked --release --bin bitnet "${features[@]}" --target-dir "target-$1") \
        || die "the $1 variant does not build"
}

# python_with NAME PACKAGE...: sets PYTHON to an interpreter of target/NAME-venv that has these packages, made anew when
# the list changes.
python_with() {
    local venv=$ROOT/target/$1-venv
    shift
    PYTHON=$venv/bin/python
    [[ -e $venv/ready && $(<"$venv/ready") == "$*" ]] && return
    say "installing $* into $(shown "$venv")"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "python3 cannot make a virtual environment (Debian: apt install python3-venv)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" || die "pip cannot install $*"
    echo "$*" >"$venv/ready"
}

# choose_model [MODEL] [TOKENIZER]: sets MODEL, MODEL_IS, and INPUT, the flags that give `run` its prompt. The demo model
# stands in for the published one because what it says depends on its logits: a synthesized one repeats the last token.
choose_model() {
    local default=$ROOT/models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf
    local demo=$ROOT/bitnet-cli/assets/demo.gguf
    local tokenizer=${2:-}
    INPUT=(-p "The capital of France is")
    if [[ -n ${1:-} ]]; then
        [[ -f $1 ]] || die "$1: no such model file"
        MODEL=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)/$(basename -- "$1")
        MODEL_IS="given"
        INPUT=(--tokens "1,2,3,4,5,6,7,8") # it may have no vocabulary
    elif [[ -f $default ]]; then
        MODEL=$default
        MODEL_IS="microsoft/bitnet-b1.58-2B-4T-gguf"
    else
        MODEL=$demo
        MODEL_IS="the demo model, as there is no model under models/"
        [[ -f $MODEL ]] || die "$MODEL: no such model file; give one"
    fi
    if [[ -z $tokenizer && -f $(dirname -- "$MODEL")/tokenizer.json ]]; then
        tokenizer=$(dirname -- "$MODEL")/tokenizer.json
    fi
    if [[ -n $tokenizer ]]; then
        [[ -f $tokenizer ]] || die "$tokenizer: no such tokenizer file"
        INPUT=(--tokenizer "$tokenizer" -p "The capital of France is")
    fi
    say "model: $MODEL ($MODEL_IS)"
}

# choose_model_or_synth [MODEL]: as choose_model, but a synthesized one of the 2B-4T shape where none is given: speed
# does not depend on what the weights say. Needs the instrumented variant.
choose_model_or_synth() {
    if [[ -n ${1:-} ]]; then
        choose_model "$1"
        return
    fi
    MODEL=$ROOT/target-instrument/synth-2b4t-1.gguf
    MODEL_IS="synthesized: bitnet synth --shape 2b4t --seed 1"
    INPUT=(--tokens "1,2,3,4,5,6,7,8")
    [[ -s $MODEL ]] || "$INSTRUMENT" synth --quiet --shape 2b4t --seed 1 "$MODEL" || die "cannot synthesize a model"
}

# ask_engine BINARY: sets ISA and THREADS to those with which the binary computes MODEL when no flag chooses.
ask_engine() {
    local json
    json=$(unset_switches "$1" run --model "$MODEL" "${INPUT[@]}" -n 1 --greedy --quiet --json) \
        || die "$(shown "$1") cannot run $(shown "$MODEL")"
    ISA=$(sed -n 's/.*"isa":"\([a-z0-9]*\)".*/\1/p' <<<"$json")
    THREADS=$(sed -n 's/.*"threads":\([0-9]*\).*/\1/p' <<<"$json")
    [[ -n $ISA && -n $THREADS ]] || die "no isa or no threads in the JSON of $(shown "$1") run"
}

# unset_switches COMMAND...: runs it with every switch unset.
unset_switches() {
    env -u BITNET_PARITY -u BITNET_TRACE_QUANT -u BITNET_TRACE_TIMING -u BITNET_TRACE_FILE "$@"
}

sha256() {
    if command -v sha256sum >/dev/null; then
        sha256sum <"$1" | cut -d' ' -f1
    else
        shasum -a 256 <"$1" | cut -d' ' -f1
    fi
}

size() {
    wc -c <"$1" | tr -d ' '
}

# A path as a reader elsewhere understands it: relative to the repository, or only the file's name.
shown() {
    case $1 in
        "$ROOT"/*) echo "${1#"$ROOT"/}" ;;
        *) basename "$1" ;;
    esac
}

# A command as it was run, with paths as `shown` has them.
shown_command() {
    local word out=()
    for word in "$@"; do
        [[ $word == /* ]] && word=$(shown "$word")
        [[ $word == *[\ \"\']* ]] && word="'$word'"
        out+=("$word")
    done
    echo "${out[*]}"
}

commit() {
    git -C "$ROOT" rev-parse HEAD 2>/dev/null || echo unknown
}

# Whether anything but receipts differs from the commit.
dirty() {
    if [[ -z $(git -C "$ROOT" status --porcelain -- . ':!receipts' 2>/dev/null) ]]; then
        echo false
    else
        echo true
    fi
}

cpu() {
    local model=""
    if [[ -r /proc/cpuinfo ]]; then
        model=$(sed -n '/^model name/{s/^[^:]*: //p;q;}' /proc/cpuinfo)
    elif command -v sysctl >/dev/null; then
        model=$(sysctl -n machdep.cpu.brand_string 2>/dev/null || true)
    fi
    echo "${model:-$(uname -m)}"
}

# The instruction sets an ISA choice depends on, as the kernel reports them.
cpu_features() {
    local flags=""
    if [[ -r /proc/cpuinfo ]]; then
        flags=$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo | grep -o -w -E \
            'avx2|fma|f16c|avx512f|avx512bw|avx512vl|avx512_vnni|avx512vbmi|avx_vnni|asimd|asimddp|sve' \
            | tr '\n' ' ') || true
    fi
    echo "${flags% }"
}

processors() {
    getconf _NPROCESSORS_ONLN 2>/dev/null || echo unknown
}

# text_header NAME: the circumstances, one `key: value` per line.
text_header() {
    local date commit dirty rustc cpu features processors
    date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    commit=$(commit)
    dirty=$(dirty)
    rustc=$(rustc --version)
    cpu=$(cpu)
    features=$(cpu_features)
    processors=$(processors)
    echo "receipt: $1"
    echo "schema: 1"
    echo "date: $date"
    echo "commit: $commit"
    echo "dirty: $dirty"
    echo "rustc: $rustc"
    echo "profile: release"
    echo "cpu: $cpu"
    echo "cpu_features: $features"
    echo "processors: $processors"
}

# The model's part of it, after `choose_model` and `ask_engine`.
text_model() {
    local model sha256 bytes
    model=$(shown "$MODEL")
    sha256=$(sha256 "$MODEL")
    bytes=$(size "$MODEL")
    echo "isa: $ISA"
    echo "threads: $THREADS"
    echo "model: $model ($MODEL_IS)"
    echo "model_sha256: $sha256"
    echo "model_bytes: $bytes"
}

# json TEXT: a JSON string.
json() {
    printf '%s' "$1" | LC_ALL=C tr -d '\000-\037' | sed -e 's/[\\"]/\\&/g' -e 's/^/"/' -e 's/$/"/'
    [[ -n $1 ]] || printf '""'
}

# member NAME TEXT: a member of an object on a line of its own.
member() {
    printf '  "%s": ' "$1"
    json "$2"
    echo ","
}

# json_header NAME: the circumstances, as the first members of an object.
json_header() {
    local date commit dirty rustc cpu features processors
    date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    commit=$(commit)
    dirty=$(dirty)
    rustc=$(rustc --version)
    cpu=$(cpu)
    features=$(cpu_features)
    processors=$(processors)
    member receipt "$1"
    echo '  "schema": 1,'
    member date "$date"
    member commit "$commit"
    echo "  \"dirty\": $dirty,"
    member rustc "$rustc"
    member profile release
    member cpu "$cpu"
    member cpu_features "$features"
    member processors "$processors"
}

# The model's part of it, after `choose_model` and `ask_engine`.
json_model() {
    local model sha256 bytes
    model=$(shown "$MODEL")
    sha256=$(sha256 "$MODEL")
    bytes=$(size "$MODEL")
    member isa "$ISA"
    echo "  \"threads\": $THREADS,"
    member model "$model ($MODEL_IS)"
    member model_sha256 "$sha256"
    echo "  \"model_bytes\": $bytes,"
}

# write_receipt NAME FILE: the file becomes receipts/NAME, whole or not at all. A file and not a pipe: the right side of
# a pipe cannot know that the left one died halfway.
write_receipt() {
    [[ -s $2 ]] || die "nothing to write into $1"
    mkdir -p "$RECEIPTS"
    cp "$2" "$RECEIPTS/.$1.part"
    mv "$RECEIPTS/.$1.part" "$RECEIPTS/$1"
    say "wrote $(shown "$RECEIPTS/$1")"
}
