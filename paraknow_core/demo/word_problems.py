"""Short arithmetic stories with one or two steps, in the manner of GSM8K."""

import random

NAMES = "Ana Ben Carl Dora Emma Finn Gina Hugo Iris Jack Kate Liam Mia Noah Olga Paul".split()
ITEMS = "apples books cards coins cups eggs flags keys lamps nuts pens pears rings shells stamps toys".split()

# Each story says which operations it needs, in order; {a}, {b}, {c} are the operands, {n}, {m}, {k} people.
STORIES: dict[str, list[str]] = {
    "+": [
        "{n} has {a} {i}. {m} gives {n} {b} more. How many {i} does {n} have now?",
        "There are {a} {i} in a box. {n} puts in {b} more. How many {i} are in the box?",
        "{n} finds {a} {i} in the morning and {b} in the evening. How many {i} does {n} find?",
        "{n} buys {a} {i} and {m} buys {b}. How many {i} do they buy together?",
    ],
    "-": [
        "{n} has {a} {i} and gives {b} to {m}. How many {i} are left?",
        "There were {a} {i} on a table. {n} took {b} of them. How many {i} are still there?",
        "{n} made {a} {i} and sold {b}. How many {i} does {n} still have?",
        "{n} has {a} {i}. {m} has {b} fewer. How many {i} does {m} have?",
    ],
    "*": [
        "{n} has {a} bags with {b} {i} in each bag. How many {i} does {n} have?",
        "{n} fills {a} boxes. Each box holds {b} {i}. How many {i} are there?",
        "For {a} days {n} buys {b} {i} every day. How many {i} does {n} buy?",
    ],
    "++": [
        "{n} has {a} {i}, {m} has {b} and {k} has {c}. How many {i} do they have together?",
        "{n} has {a} {i}, finds {b} more and then buys {c} more. How many {i} does {n} have now?",
    ],
    "+-": [
        "{n} has {a} {i}. {m} gives {n} {b} more. Then {n} loses {c}. How many {i} are left?",
        "There were {a} {i} in a box. {n} put in {b} and {m} took {c}. How many {i} are still there?",
    ],
    "-+": [
        "{n} had {a} {i}, sold {b} and then made {c} more. How many {i} does {n} have now?",
        "{n} has {a} {i}. {m} takes {b} but {k} brings {c}. How many {i} does {n} have now?",
    ],
    "--": [
        "A shop had {a} {i}. It sold {b} on Monday and {c} on Friday. How many {i} are left?",
        "{n} has {a} {i}, gives {b} to {m} and {c} to {k}. How many {i} does {n} still have?",
    ],
    "*+": [
        "{n} has {a} bags with {b} {i} in each bag and finds {c} more. How many {i} does {n} have now?",
        "{n} buys {a} boxes of {b} {i}. {m} gives {n} {c} more. How many {i} does {n} have now?",
    ],
    "*-": [
        "{n} buys {a} boxes of {b} {i} and loses {c} of them. How many {i} are left?",
        "{n} has {a} bags with {b} {i} in each bag and sells {c}. How many {i} does {n} still have?",
    ],
}


def step(left: int, sign: str, rng: random.Random) -> tuple[int, int]:
    """Draw the right operand of one operation and compute the result.

    Args:
        left: what the operation starts from.
        sign: "+", "-" or "*".
        rng: source of chance.

    Returns:
        (right operand, result); results stay between 1 and 99.
    """
    if sign == "*":
        right = rng.randint(2, 9)
        return right, left * right
    right = rng.randint(2, 15 if sign == "+" else min(15, left - 1))
    return right, left + right if sign == "+" else left - right


def first_operand(signs: str, rng: random.Random) -> int:
    """Draw an opening number that leaves room for every later subtraction."""
    if signs[0] == "*":
        return rng.randint(2, 9)
    return rng.randint(20 if signs == "--" else 5, 40)


def draw(rng: random.Random, split: str = "train") -> tuple[str, str]:
    """Draw one story.

    Args:
        rng: source of chance.
        split: unused: every split tells the same kind of story.

    Returns:
        (question, answer); the answer shows each step and ends in `#### result`.
    """
    signs = rng.choice(list(STORIES))
    story = rng.choice(STORIES[signs])
    total = first_operand(signs, rng)
    operands, lines = [total], []
    for sign in signs:
        before = total
        right, total = step(before, sign, rng)
        if total < 3 and len(lines) + 1 < len(signs):
            return draw(rng, split)  # nothing would be left to take away in the next step
        operands.append(right)
        lines.append(f"{before} {sign} {right} = {total}")
    n, m, k = rng.sample(NAMES, 3)
    numbers = dict(zip("abc", operands, strict=False))
    question = story.format(n=n, m=m, k=k, i=rng.choice(ITEMS), **numbers)
    return question, "\n".join([*lines, f"#### {total}"])
