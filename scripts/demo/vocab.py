"""The demo model's vocabulary: every byte, the words of its questions and replies, and three control tokens.

Words follow Llama 3's rule for cutting text (tokenizer.ggml.pre = llama-bpe), under which a cut-out word that is a
token needs no merges; any other word is spelt in bytes. Single letters and digits always are bytes.
"""

import re

from . import tasks

# Llama 3's expression, for ASCII text.
SPLIT = re.compile(
    r"'(?i:s|t|re|ve|m|ll|d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
TEMPLATES = [
    "What is 1 plus 1?", "What is 1 minus 1?", "What is 1 times 1?", "Which is larger, 1 or 1?", "They are equal.",
    "compare 1 1=", "reverse 1 1=", "sort 1 1=", tasks.OTHER_ANSWER,
]


def _words():
    texts = list(TEMPLATES)
    for asked, reply in tasks.TALK:
        texts += asked.split("|") + [reply]
    # As a prompt by themselves, and after "User: " or "Assistant: ", where the space is part of the first word.
    found = ["User", "Assistant"]
    for text in texts:
        found += SPLIT.findall(text) + SPLIT.findall(" " + text)
    return [w for w in dict.fromkeys(found) if len(re.sub("[^A-Za-z]", "", w)) >= 2]


TOKENS = [bytes([b]) for b in range(256)] + [w.encode() for w in _words()]
BOS, EOS, EOT = range(len(TOKENS), len(TOKENS) + 3)
N_VOCAB = len(TOKENS) + 3
_IDS = {token: i for i, token in enumerate(TOKENS)}
_CACHE = {}


def encode(text):
    """The ids of plain text."""
    ids = []
    for word in SPLIT.findall(text):
        if word not in _CACHE:
            raw = word.encode()
            _CACHE[word] = [_IDS[raw]] if raw in _IDS else list(raw)
        ids += _CACHE[word]
    if len(_CACHE) > 100_000:
        _CACHE.clear()
    return ids


def plain(prompt, answer):
    """(ids, which of them are to be predicted) of a question that stands by itself."""
    asked, said = [BOS] + encode(prompt), encode(answer) + [EOS]
    return asked + said, [False] * len(asked) + [True] * len(said)


def chat(turns, rejoined=False):
    """The same of a conversation in the 2B-4T format; every reply is to be predicted.

    `rejoined`: past replies are cut into words together with the header before them, as a transcript is, not as
    they were generated.
    """
    ids, wanted = [BOS], []
    wanted = [False]
    for i, (message, reply) in enumerate(turns):
        asked, said = encode(f"User: {message}") + [EOT] + encode("Assistant: "), encode(reply) + [EOT]
        learn = True
        if rejoined and i + 1 < len(turns):
            asked, said, learn = asked[:-3], encode(f"Assistant: {reply}") + [EOT], False
        ids += asked + said
        wanted += [False] * len(asked) + [learn] * len(said)
    return ids, wanted


def transcript(turns):
    """A conversation up to its last reply, with control tokens spelt out."""
    text = "".join(f"User: {message}<|eot_id|>Assistant: {reply}<|eot_id|>" for message, reply in turns[:-1])
    return text + f"User: {turns[-1][0]}<|eot_id|>Assistant: "


def spelt(token):
    """A token in the printable alphabet of byte-level vocabularies."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in kept]
    return "".join(chr(b) if b in kept else chr(0x100 + moved.index(b)) for b in token)
