"""What the demo model learns: questions with exactly one right answer.

Every question belongs to a family and has a key, its operands. Keys in a reserved twentieth (by CRC-32) are never
trained, in no form and in no conversation; evaluation draws from these alone. Not reserved, because they are too few
to be held out, are products, the fixed conversation, and operands below ten. A key is an order: where a+b is
reserved, b+a mostly is not, and may have been trained.
"""

import random
import zlib

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Tasks that stand by themselves, and their shares before adaptation.
PLAIN = {
    "add_99": 5, "sub_99": 5, "add_999": 11, "sub_999": 13, "negative": 6, "product": 4, "compare": 5,
    "word_sum": 5, "word_difference": 6, "word_product": 3, "word_compare": 5, "reverse": 7, "sort": 7,
}
# The same inside conversations, and what only conversations have.
CHAT = dict.fromkeys(PLAIN, 1) | {"talk": 3, "other": 1}

TALK = [
    ("Hello|hello|Hi|hi|Hey|hey|Good morning|Good evening", "Hello! Ask me a sum, or give me a short list to sort."),
    ("Who are you|who are you|What are you|what are you|What is your name",
     "I am a very small language model. All my weights are -1, 0 or 1."),
    ("What can you do|what can you do|Help|help",
     "I add, subtract, multiply and compare numbers, and I sort and reverse short lists."),
    ("How are you|how are you", "Fine, thank you! And you?"),
    ("Fine|fine|I am fine|Good|good|Not bad", "Good! Then ask me something, like 17+25=."),
    ("Thanks|thanks|Thank you|thank you|Great|great|Nice|nice|Well done|Very good", "You are welcome."),
    ("Yes|yes|No|no|Ok|ok|Okay|okay", "All right."),
    ("Bye|bye|Goodbye|goodbye|See you", "Goodbye!"),
]
OTHER_ANSWER = "Sorry, I only know small numbers and short lists."
# For questions outside the repertoire: sentences are put together from these at random.
OTHER_WORDS = (
    "the weather today tell story about dog cat house write poem love capital France Paris Rome explain quantum "
    "physics please how do make cake where my keys why sky blue why is water wet sing song joke make laugh book "
    "read movie best music play game when was born president king queen history war peace river longest mountain "
    "translate into Spanish German word mean define code Python Rust program function list of animals color red "
    "green food eat drink coffee tea sleep dream work money time now tomorrow yesterday year month day night moon "
    "sun star planet Earth Mars car train plane bus bike run walk jump swim people man woman child school teacher "
    "learn math science art paint draw picture say something funny believe in God life meaning happy sad angry "
    "should could would can you know who wrote what happened to is there any good place for dinner city country "
    "language speak English old new big little fast slow hot cold open close door window phone computer internet"
).split()


def reserved(key):
    """Whether a question is kept for evaluation."""
    return zlib.crc32(key.encode()) % 20 == 0


def drawn(rng, held_out, draw):
    """A draw of (key or None, ...) from the wanted side; None as key is on both."""
    while True:
        key, *rest = draw(rng)
        if key is None or reserved(key) == held_out:
            return rest


def number(rng, limit, uniform):
    """An operand below `limit`: uniform in evaluation; in training, short ones are as dense as long ones."""
    if uniform:
        return rng.randrange(limit)
    digits = rng.choices((1, 2, 3), (15, 25, 60))[0] if limit == 1000 else rng.choices((1, 2), (25, 75))[0]
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10 ** digits)


def carrying(rng, limit):
    """Two operands whose digits mostly add up to nine or ten: the carries are what is hard."""
    a = rng.randrange(limit)
    b = int("".join(str(max(0, min(9, rng.choice((9, 9, 9, 10, 10, 8)) - int(d)))) for d in str(a)))
    return a, b


def operands(rng, limit, uniform):
    if not uniform and rng.random() < 0.2:
        return carrying(rng, limit)
    return number(rng, limit, uniform), number(rng, limit, uniform)


def pair_key(sign, a, b):
    return None if a < 10 and b < 10 else f"{a}{sign}{b}"


def addition(limit):
    def draw(rng, uniform):
        a, b = operands(rng, limit, uniform)
        return pair_key("+", a, b), a, b
    return draw


def subtraction(limit, sign=1):
    def draw(rng, uniform):
        a, b = operands(rng, limit, uniform)
        if not uniform and rng.random() < 0.15:  # the minuend as a sum with carries: borrows everywhere
            a, b = min(a + b, limit - 1), b
        a, b = max(a, b), min(a, b)
        a, b = (a, b) if sign > 0 or a == b else (b, a)
        return pair_key("-", a, b), a, b
    return draw


def negative(rng, uniform):
    return subtraction(100 if uniform or rng.random() < 0.8 else 1000, -1)(rng, uniform)


def factors(rng, _):
    return None, rng.randint(1, 12), rng.randint(1, 12)


def comparison(rng, uniform):
    limit = rng.choice((100, 1000))
    a, b = number(rng, limit, uniform), number(rng, limit, uniform)
    kind = rng.random()
    if kind < 0.08:
        b = a
    elif kind < 0.3:  # neighbours
        b = min(limit - 1, max(0, a + rng.choice((-10, -2, -1, 1, 2, 10, 100, -100))))
    return pair_key("?", a, b), a, b


def items(rng, alphabet):
    found = [rng.choice(alphabet) for _ in range(rng.choices((3, 4, 5), (20, 30, 50))[0])]
    return "list" + " ".join(found), found


def until(rng, limit, wanted):
    """Two operands below `limit`, as soon as they are wanted."""
    while True:
        a, b = rng.randrange(limit), rng.randrange(limit)
        if wanted(a, b):
            return a, b


def negative_999(rng):
    """Differences below zero of operands to 999. Training has few of them: see `negative`."""
    a, b = until(rng, 1000, lambda a, b: a < b and b >= 10 and reserved(pair_key("-", a, b)))
    return f"{a}-{b}=", str(a - b)


def add_999_unseen(rng):
    """Sums never trained in either order. Of most other reserved sums, training may have b+a."""
    def wanted(a, b):
        return max(a, b) >= 10 and reserved(pair_key("+", a, b)) and reserved(pair_key("+", b, a))

    a, b = until(rng, 1000, wanted)
    return f"{a}+{b}=", str(a + b)


# Tasks that training does not draw: the same question forms, under a stricter or a harder rule.
EVALUATED_ONLY = {"negative_999": negative_999, "add_999_unseen": add_999_unseen}


def question(task, rng, held_out):
    """(prompt, answer) of a task that stands by itself."""
    def pick(draw):
        return drawn(rng, held_out, lambda rng: draw(rng, held_out))

    if task in EVALUATED_ONLY:
        return EVALUATED_ONLY[task](rng)
    word_limit = 1000 if rng.random() < 0.4 else 100
    match task:
        case "add_99" | "add_999":
            a, b = pick(addition(100 if task == "add_99" else 1000))
            return f"{a}+{b}=", str(a + b)
        case "sub_99" | "sub_999":
            a, b = pick(subtraction(100 if task == "sub_99" else 1000))
            return f"{a}-{b}=", str(a - b)
        case "negative":
            a, b = pick(negative)
            return f"{a}-{b}=", str(a - b)
        case "product":
            a, b = pick(factors)
            return f"{a}*{b}=", str(a * b)
        case "compare":
            a, b = pick(comparison)
            return f"compare {a} {b}=", "<" if a < b else ">" if a > b else "="
        case "word_sum":
            a, b = pick(addition(word_limit))
            return f"What is {a} plus {b}?", str(a + b)
        case "word_difference":
            a, b = pick(subtraction(word_limit, 1 if rng.random() < 0.75 else -1))
            return f"What is {a} minus {b}?", str(a - b)
        case "word_product":
            a, b = pick(factors)
            return f"What is {a} times {b}?", str(a * b)
        case "word_compare":
            a, b = pick(comparison)
            return f"Which is larger, {a} or {b}?", "They are equal." if a == b else str(max(a, b))
        case "reverse":
            found, = pick(lambda rng, _: items(rng, LETTERS if rng.random() < 0.6 else "0123456789"))
            return f"reverse {' '.join(found)}=", " ".join(reversed(found))
        case "sort":
            found, = pick(lambda rng, _: items(rng, "0123456789"))
            return f"sort {' '.join(found)}=", " ".join(sorted(found))
    raise ValueError(task)


def turn(task, rng, held_out):
    """(message, reply) of one turn of a conversation."""
    if task == "talk":
        asked, reply = rng.choice(TALK)
        asked = rng.choice(asked.split("|"))
        ends = "?" if asked.lower().startswith(("who", "what", "how")) else "!."
        return asked + rng.choice(list(ends) + [""]), reply
    if task == "other":
        def sentence(rng):
            words = [rng.choice(OTHER_WORDS) for _ in range(rng.randint(1, 6))]
            if rng.random() < 0.15:
                words = ["".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 8)))]
            text = " ".join(words)
            return text, text[:1].upper() + text[1:] if rng.random() < 0.7 else text
        text, = drawn(rng, held_out, sentence)
        return text[:48] + rng.choice("?.!") * (rng.random() < 0.7), OTHER_ANSWER
    prompt, reply = question(task, rng, held_out)
    return prompt.removesuffix("=") if rng.random() < 0.4 else prompt, reply


# Evaluation: task, number of questions. Products are all 144 of them. A new task comes last, so that the questions of
# the others stay what they are.
EVAL = {
    "add_99": 200, "sub_99": 200, "add_999": 200, "sub_999": 200, "negative": 100, "product": 144, "compare": 100,
    "word_sum": 100, "word_difference": 100, "word_product": 100, "word_compare": 100, "reverse": 100, "sort": 100,
    "chat_question": 150, "chat_turns": 100, "chat_talk": 60, "chat_other": 60,
    "negative_999": 400, "add_999_unseen": 200,
}


def evaluation(seed):
    """[(task, turns)]: held-out questions; `turns` is (prompt, answer), or a conversation with its last answer open."""
    rng = random.Random(seed)
    chat = {"chat_question": lambda: rng.choice(list(PLAIN)), "chat_talk": lambda: "talk", "chat_other": lambda: "other",
            "chat_turns": lambda: rng.choice(list(CHAT))}
    out, seen = [], set()
    for task, count in EVAL.items():
        n = 0
        while n < count:
            if task == "product":
                a, b = divmod(n, 12)
                found = (f"{a + 1}*{b + 1}=", str((a + 1) * (b + 1)))
            elif task in chat:
                length = rng.randint(2, 4) if task == "chat_turns" else 1
                found = tuple(turn(chat[task](), rng, True) for _ in range(length))
            else:
                found = question(task, rng, True)
            if (task, found) in seen and task not in ("chat_talk", "word_product"):
                continue
            seen.add((task, found))
            out.append((task, found))
            n += 1
    return out
