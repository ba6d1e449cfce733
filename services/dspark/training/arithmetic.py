"""Worked arithmetic: seeded problems with every step of the answer written out."""

import random
from collections.abc import Callable

_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gita", "Hugo", "Iris", "Jon")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "stamps", "tickets", "shells")


def _addition(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(11, 9999), rng.randint(11, 9999)
    question = rng.choice((f"What is {a} + {b}?", f"Add {a} and {b}.", f"Compute {a} + {b}."))
    lines, carry, place = [f"We add {a} and {b} digit by digit, from the right."], 0, 0
    x, y = a, b
    while x or y or carry:
        dx, dy = x % 10, y % 10
        total = dx + dy + carry
        lines.append(
            f"Place {place + 1}: {dx} + {dy} + carry {carry} = {total}, "
            f"write {total % 10}, carry {total // 10}."
        )
        carry, x, y, place = total // 10, x // 10, y // 10, place + 1
    return question, "\n".join([*lines, f"The answer is {a + b}."])


def _subtraction(rng: random.Random) -> tuple[str, str]:
    a, b = sorted((rng.randint(11, 9999), rng.randint(11, 9999)), reverse=True)
    question = rng.choice((f"What is {a} - {b}?", f"Subtract {b} from {a}.", f"Compute {a} - {b}."))
    lines, borrow, place = [f"We subtract {b} from {a} digit by digit, from the right."], 0, 0
    x, y = a, b
    while x or y:
        dx, dy = x % 10, y % 10
        value = dx - dy - borrow
        taken = 1 if value < 0 else 0
        lines.append(
            f"Place {place + 1}: {dx} - {dy} - borrow {borrow} = {value}, "
            f"write {value % 10}, borrow {taken}."
        )
        borrow, x, y, place = taken, x // 10, y // 10, place + 1
    return question, "\n".join([*lines, f"The answer is {a - b}."])


def _multiplication(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(12, 999), rng.randint(12, 99)
    question = rng.choice(
        (f"What is {a} * {b}?", f"Multiply {a} by {b}.", f"Compute {a} times {b}.")
    )
    lines = [f"We split {b} into its digits and multiply {a} by each."]
    parts = []
    for place, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**place
        lines.append(f"{a} * {digit} = {a * int(digit)}, times {10**place} is {part}.")
        parts.append(part)
    lines.append(f"The sum is {' + '.join(map(str, parts))} = {a * b}.")
    return question, "\n".join([*lines, f"The answer is {a * b}."])


def _division(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(100, 9999), rng.randint(2, 12)
    question = rng.choice((f"What is {a} divided by {b}?", f"Divide {a} by {b}."))
    lines, rest = [f"We divide {a} by {b} digit by digit, from the left."], 0
    for digit in str(a):
        value = rest * 10 + int(digit)
        lines.append(f"Bring down {digit}: {value} / {b} = {value // b}, remainder {value % b}.")
        rest = value % b
    return question, "\n".join([*lines, f"The answer is {a // b} remainder {a % b}."])


def _equation(rng: random.Random) -> tuple[str, str]:
    a, x, b = rng.randint(2, 12), rng.randint(1, 30), rng.randint(1, 60)
    c = a * x + b
    question = rng.choice((f"Solve {a}x + {b} = {c} for x.", f"If {a}x + {b} = {c}, what is x?"))
    answer = (
        f"Start with {a}x + {b} = {c}.\nSubtract {b} from both sides: {a}x = {c} - {b} = {c - b}.\n"
        f"Divide both sides by {a}: x = {c - b} / {a} = {x}.\nThe answer is {x}."
    )
    return question, answer


def _story(rng: random.Random) -> tuple[str, str]:
    name, other = rng.sample(_NAMES, 2)
    thing = rng.choice(_THINGS)
    boxes, each, gift = rng.randint(3, 20), rng.randint(3, 25), rng.randint(1, 9)
    total = boxes * each
    question = (
        f"{name} has {boxes} boxes with {each} {thing} in each box and gives {gift} {thing} "
        f"to {other}. How many {thing} are left?"
    )
    answer = (
        f"First, find how many {thing} {name} has: {boxes} * {each} = {total}.\n"
        f"Then, take away the {gift} {thing} for {other}: {total} - {gift} = {total - gift}.\n"
        f"{name} has {total - gift} {thing} left.\nThe answer is {total - gift}."
    )
    return question, answer


def _purchase(rng: random.Random) -> tuple[str, str]:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    number, price = rng.randint(2, 15), rng.randint(2, 20)
    cost = number * price
    paid = cost + rng.randint(1, 60)
    question = (
        f"{name} buys {number} {thing} at {price} dollars each and pays with {paid} dollars. "
        f"How much change does {name} get?"
    )
    answer = (
        f"First, find the cost: {number} * {price} = {cost} dollars.\n"
        f"Then, subtract the cost from the money paid: {paid} - {cost} = {paid - cost} dollars.\n"
        f"{name} gets {paid - cost} dollars of change.\nThe answer is {paid - cost}."
    )
    return question, answer


def _sequence(rng: random.Random) -> tuple[str, str]:
    start, step, count = rng.randint(1, 40), rng.randint(2, 15), rng.randint(5, 9)
    terms = [start + step * i for i in range(count)]
    question = f"List the first {count} terms of the sequence from {start} with step {step}."
    lines = [f"Term 1 is {start}."]
    for i in range(1, count):
        lines.append(f"Term {i + 1} is {terms[i - 1]} + {step} = {terms[i]}.")
    return question, "\n".join([*lines, f"The answer is {', '.join(map(str, terms))}."])


_KINDS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (
    _addition,
    _subtraction,
    _multiplication,
    _division,
    _equation,
    _story,
    _purchase,
    _sequence,
)


def worked_problem(rng: random.Random) -> tuple[str, str]:
    """Draw one (question, worked answer)."""
    return rng.choice(_KINDS)(rng)


def worked_page(rng: random.Random, num_problems: int) -> str:
    """Draw a plain page of problems, as a workbook would print them."""
    parts = []
    for index in range(num_problems):
        question, answer = worked_problem(rng)
        parts.append(f"Problem {index + 1}. {question}\n{answer}\n")
    return "\n".join(parts)
