r"""Numbers as people write them, each read as one exact value. Pure functions on strings, linear in their length.

How one spelling is read (groups are always of three digits, the first of one to three; Indian 12,34,567 is known too):

| written | read as | why |
|---|---|---|
| 1,234  1,234,567  1,234.5 | 1234, 1234567, 1234.5 | commas group, as in English, unless the text uses decimal commas |
| 3,5  12,75  0,125  1.234,56 | 3.5, 12.75, 0.125, 1234.56 | no grouping comma can stand there |
| 1.234  3.142 | 1.234, 3.142 | the point is a decimal mark, unless the text uses decimal commas |
| 1.234.567  1'234  1_234 | 1234567, 1234, 1234 | groups |
| 1 234  9\,500 | 1234, 9500 | groups with spaces of any width |
| 3/4  1 1/2  \frac34  ½  1½ | 0.75, 1.5, 0.75, 0.5, 1.5 | exact, never rounded: 1/3 stays 1/3 |
| 1.5e3  2 × 10^3  2^10 | 1500, 2000, 1024 | up to 400 digits |
| −5  –5  -$5  $-5 | -5 | any dash that does not follow a word, number or bracket; 3–5 is a range |
| 12%  €4  4 €  5 kg | 12, 4, 4, 5 | marks and units do not count |
| 10:30  3:4  2024-05-03  3/4/2024  1.2.3  5π  √2 | none | no rational number |

The readings of 1,234 and 1.234 differ between languages: see `Number.form` and `decimal_marks`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from paraknow_core.tasks.characters import HARD_SPACE, JOINER

MOST_DIGITS = 400  # of a number that is computed; one that is only read may be of any length
MOST_TOKENS = 400  # numbers, operators and brackets of one calculation

_BLOB = rf"[0-9]++(?:[.,][0-9]++|['_{HARD_SPACE}][0-9]{{3}}(?![0-9]))*+"
_SPACED = r"(?<![0-9][ ])[1-9][0-9]{0,2}(?>(?:[ ][0-9]{3}(?![0-9]))+(?:[.,][0-9]++)?)(?![ ]?/[ ]?[0-9])"
_MONEY = r"[$€£¥₹₽₩₺₫₴₦฿¢]"
NUMBER = re.compile(
    rf"""
    (?P<odd>(?<![0-9.,])(?:
        [0-9]++(?::[0-9]++)++                                # times and ratios
      | [0-9]++(?:/[0-9]++){{2,}}+|[0-9]++(?:\^[0-9]++){{2,}}+  # dates; towers of powers
      | [0-9]{{4}}([-–.])[0-9]{{1,2}}\2[0-9]{{1,2}}(?![0-9])
      | [0-9]{{1,2}}\.[0-9]{{1,2}}\.(?:[0-9]{{4}}|[0-9]{{2}})(?![0-9])
      | 0[xX][0-9a-fA-F]++
    ))
  | (?P<money>{_MONEY}[ ]?(?P<inner>[-–]?))?
    (?:
        (?:(?P<whole>{_BLOB})(?:[ ](?:and[ ])?|{HARD_SPACE})?{JOINER}?|{JOINER}(?P<minus>-?))
        (?P<top>{_BLOB})[ ]?/[ ]?(?P<bottom>{_BLOB})
      | (?P<body>{_SPACED}|{_BLOB}|\.[0-9]++)
        (?P<exponent>[eE][-+]?[0-9]++(?![A-Za-z0-9]))?
        (?P<ten>[ ]?[×xX*·][ ]?10[ ]?(?:\^|\*\*)[ ]?\(?(?P<tens>[-–+]?[0-9]++)\)?)?
        (?P<power>[ ]?(?:\^|\*\*)[ ]?\(?(?P<raised>[-–+]?[0-9]++)\)?)?
        (?P<over>[ ]?/[ ]?(?P<below>{_BLOB}))?
    )
    """,
    re.VERBOSE,
)
_SEPARATED = re.compile(rf"(?<![0-9])[0-9]++(?:[.,'_{HARD_SPACE}][0-9]++)++")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_SIGNED = re.compile(r"[-–+]?[ ]?")
_MORE = re.compile(r"[ ]?/[ ]?[0-9]|[ ]?\^[ ]?[(0-9]|\*\*[0-9]")
_SIGNS = tuple("+-–")
_OPERATORS = (*_SIGNS, *"*×·∙xX/÷:")
_UNIT = re.compile(r"[ ]?(?:[A-Za-z]+\.?|[€£¥])(?:[ ][A-Za-z]+){0,2}(?=[ ][+*×÷][ ])")


@dataclass(frozen=True)
class Number:
    """A number found in a text.

    Attributes:
        value: in plain notation, e.g. "-1200.5" or "1/3"; None if it is no rational number that can be read.
        start, end: where it stands, sign included.
        form: "1.234" or "1,234" where the spelling has that form, so that its reading depends on the language.
        weak: part of a name, an ordinal or an exponent, such as the 2 of m^2, A2 and 2nd.
        odd: a time, a date or a ratio.
    """

    value: str | None
    start: int
    end: int
    form: str = ""
    weak: bool = False
    odd: bool = False


def numbers(text: str, *, comma: bool = False) -> Iterator[Number]:
    """Yield the numbers of a text from left to right.

    Args:
        text: of `plain_characters`.
        comma: the text uses decimal commas: 1,234 is 1.234, and 1.234 is 1234.
    """
    for match in NUMBER.finditer(text):
        yield from _of_match(text, match, comma)


def decimal_marks(text: str) -> tuple[int, int]:
    """Count the numbers that can only be read with a decimal point, and those that only with a decimal comma."""
    points = commas = 0
    for match in _SEPARATED.finditer(text):
        _, form = read_digits(match.group(), comma=False)
        points += form == "."
        commas += form == "," and not _bracketed(text, *match.span())
    return points, commas


def read_digits(written: str, *, comma: bool) -> tuple[str | None, str]:
    """Read digits with their separators.

    Returns:
        (digits with at most one point, form); None if it is not one number. The form is "1,234" or "1.234" where the
        language decides, "." or "," where the spelling shows which mark is decimal, else "".
    """
    marks = re.findall(r"[^0-9]", written)
    if not marks:
        return written, ""
    groups = re.split(r"[^0-9]", written)
    first, last, kinds = groups[0], marks[-1], set(marks)
    if not first:  # .5
        return written, "."
    if len(marks) == 1 and last in ".,":
        if len(groups[1]) == 3 and len(first) <= 3 and first[0] != "0":
            grouped = (last == ",") != comma
            return "".join(groups) if grouped else ".".join(groups), f"1{last}234"
        return ".".join(groups), last
    if len(kinds) == 1:
        form = {",": ".", ".": ","}.get(last, "")
        return ("".join(groups), form) if _grouped(groups, last) else (None, "")
    if last in ".," and marks.count(last) == 1 and len(kinds) == 2 and _grouped(groups[:-1], marks[0]):
        return "".join(groups[:-1]) + "." + groups[-1], last
    return None, ""


def calculate(text: str, at: int, *, comma: bool = False) -> tuple[str | None, int] | None:
    """Read the calculation (most often one number) that begins at a place of a text.

    Args:
        text: of `plain_characters`.
        at: where its first number, sign or bracket stands.

    Returns:
        (value, end): the value in plain notation, None if it cannot be read (too large, divided by zero); the whole is
        None if no calculation begins there. `3-5` and `3–5` are ranges, of which only the first number is read.
    """
    tokens, ends = _tokens(text, at, comma)
    while tokens and (tokens[-1] in _OPERATORS or tokens[-1] == "("):
        tokens.pop(), ends.pop()
    if not any(isinstance(token, Number) for token in tokens):
        return None
    if len(tokens) > MOST_TOKENS:
        return None, ends[-1]
    if tokens.count("(") != tokens.count(")") or _is_range(tokens):
        index = next(index for index, token in enumerate(tokens) if isinstance(token, Number))
        sign = "-" if index and tokens[index - 1] in ("-", "–") else ""
        return _signed(sign, tokens[index].value), ends[index]
    if len(tokens) == 1:
        return tokens[0].value, ends[0]
    try:
        return _plain_fraction(_value(tokens)), ends[-1]
    except (ArithmeticError, ValueError, IndexError):
        return None, ends[-1]


def in_order(first: Number, second: Number) -> bool:
    """True if both can be compared and the first is the smaller one."""
    left, right = _exact(first), _exact(second)
    return left is not None and right is not None and left < right


def _of_match(text: str, match: re.Match, comma: bool) -> Iterator[Number]:
    start, end = match.span()
    if match["odd"]:
        yield Number(None, start, end, odd=True)
        return
    if match["inner"]:
        sign = "-" if not text[:start][-1:].isdigit() else ""
    else:
        sign = _sign(text, start)
    begin = text.rindex(sign, 0, start) if sign and not match["inner"] else start
    weak = _is_weak(text, match, bool(sign))
    if match["top"] is not None:
        yield from _fraction(match, sign, begin, weak, comma)
        return
    written = match["body"].replace(" ", HARD_SPACE)
    digits, form = read_digits(written, comma=comma)
    pieces = re.split(r"[,']", written)
    if digits is None and "," not in written:
        yield Number(None, begin, end, odd=True)  # a version, an address
    elif digits is None or (form == "," and _bracketed(text, start, end)):  # a list: 1,2,3 or (3,5)
        place = match.start("body")
        for index, piece in enumerate(pieces):
            alone = read_digits(piece, comma=comma)[0]
            value = None if alone is None else _signed(sign if not index else "", _strip(alone))
            yield Number(value, place if index else begin, place + len(piece), weak=weak)
            place += len(piece) + 1
    else:
        value = _read(match, digits, sign, comma)
        if _MORE.match(text, end) or _beside_symbol(text, start, end):
            value = None
        bare = not (match["exponent"] or match["ten"] or match["power"] or match["over"])
        yield Number(value, begin, end, form if bare and form in ("1,234", "1.234") else "", weak)


def _fraction(match: re.Match, sign: str, begin: int, weak: bool, comma: bool) -> Iterator[Number]:
    """Yield a fraction or mixed number; two numbers if what stands before the fraction is no whole number of it."""
    top, bottom = (_small(match[key], comma) for key in ("top", "bottom"))
    whole = _small(match["whole"], comma) if match["whole"] else Fraction(0)
    if match["minus"]:
        sign = "" if sign else "-"
    if not top or not bottom or whole is None:
        if top == 0 and bottom and not match["whole"]:
            yield Number("0", begin, match.end(), weak=weak)
        else:
            yield Number(None, begin, match.end(), weak=weak)
    elif match["whole"] and (top >= bottom or whole.denominator != 1):
        yield Number(_signed(sign, _plain_fraction(whole)), begin, match.end("whole"), weak=weak)
        yield Number(_plain_fraction(top / bottom), match.start("top"), match.end())
    else:
        yield Number(_signed(sign, _plain_fraction(whole + top / bottom)), begin, match.end(), weak=weak)


def _read(match: re.Match, digits: str, sign: str, comma: bool) -> str | None:
    """The value of a number with its exponent, power and denominator."""
    value = digits
    for power in (match["exponent"] and match["exponent"][1:], match["tens"]):
        if power:
            if len(power) > 5 or abs(int(power.replace("–", "-"))) > MOST_DIGITS:
                return None
            value = _shifted(value, int(power.replace("–", "-")))
    if match["power"] or match["over"]:
        exact = _small(value, comma=False)
        if exact is None:
            return None
        try:
            if match["power"]:
                exact = _raised(exact, match["raised"].replace("–", "-"))
            if match["over"]:
                exact /= _small(match["below"], comma) or 0
        except (ArithmeticError, ValueError):
            return None
        return _signed(sign, _plain_fraction(exact))
    return _signed(sign, _strip(value))


def _sign(text: str, start: int) -> str:
    """The dash before a number if it is its sign: not after a word, a number or a bracket that ends."""
    before, further = text[start - 1 : start], text[max(0, start - 3) : start - 1]
    if before == "+" and further[-1:] in ("", " ", "(", "$", "="):
        return ""
    if before in ("-", "–"):
        last = further[-1:]
        joins = last.isalnum() or last in tuple(")]}%°_'\"€£¥₹") or (last == "$" and further[-2:-1].isdigit())
        return "" if last and joins else before
    if before == " " and further[-1:] in ("-", "–"):
        return further[-1] if text[max(0, start - 4) : start - 2].strip()[-1:] in tuple("=≈:([{→") else ""
    return ""


def _is_weak(text: str, match: re.Match, signed: bool) -> bool:
    if match["money"]:
        return False
    start, before = match.start(), text[match.start() - 1 : match.start()] if match.start() else ""
    if before in ("-", "–") and not signed:  # COVID-19
        before = text[max(0, start - 2) : start - 1]
    named = before.isalpha() and before < "\u0e00"  # scripts beyond it are written without spaces
    return named or before in tuple("^_#") or _ORDINAL.match(text, match.end()) is not None


def _beside_symbol(text: str, start: int, end: int) -> bool:
    after = text[end : end + 3].lstrip(" .")[:1]
    before = text[max(0, start - 2) : start].rstrip(" (")[-1:]
    return (bool(after) and after in "π√∞‾") or (bool(before) and before in "√‾∞π")


def _bracketed(text: str, start: int, end: int) -> bool:
    """True of (3,5): a pair, not a decimal comma."""
    return text[start - 1 : start] in tuple("([") and text[end : end + 1] in tuple(")]") and start > 0


def _grouped(groups: list[str], mark: str) -> bool:
    first, *rest = groups
    if not rest or not first or len(first) > 3:
        return False
    thirds = all(len(group) == 3 for group in rest)
    indian = mark == "," and len(first) <= 2 and len(rest[-1]) == 3 and all(len(group) == 2 for group in rest[:-1])
    return thirds or indian


def _small(written: str, comma: bool) -> Fraction | None:
    """Return the exact value of a number to compute with, None if it is not one or has too many digits."""
    digits = read_digits(written, comma=comma)[0]
    return None if digits is None or len(digits) > MOST_DIGITS else Fraction(digits)


def _strip(digits: str) -> str:
    """Take needless zeros away."""
    whole, _, part = digits.partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return f"{whole}.{part}" if part else whole


def _signed(sign: str, plain: str | None) -> str | None:
    if plain is None or not sign or plain == "0":
        return plain
    return plain[1:] if plain.startswith("-") else f"-{plain}"


def _shifted(digits: str, by: int) -> str:
    whole, _, part = digits.partition(".")
    if by >= 0:
        part = part.ljust(by, "0")
        return f"{whole}{part[:by]}.{part[by:] or '0'}"
    whole = whole.rjust(1 - by, "0")
    return f"{whole[:by]}.{whole[by:]}{part}"


def _raised(base: Fraction, power: str) -> Fraction:
    size = max(abs(base.numerator), base.denominator).bit_length()
    if len(power) > 5 or abs(int(power)) * size > 8 * MOST_DIGITS:
        raise ValueError
    return base ** int(power)


def _plain_fraction(value: Fraction) -> str | None:
    """Write a value as a decimal if it has an end, else as p/q; None if it is too long."""
    below, twos, fives = value.denominator, 0, 0
    if max(abs(value.numerator), below).bit_length() > 4 * MOST_DIGITS:
        return None
    while below % 2 == 0:
        below, twos = below // 2, twos + 1
    while below % 5 == 0:
        below, fives = below // 5, fives + 1
    if below > 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    plain = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return _signed("-" if value < 0 else "", _strip(plain))


def _tokens(text: str, at: int, comma: bool) -> tuple[list, list[int]]:
    """Numbers, operators and brackets from a place on, as long as they make a calculation; and where each ends."""
    tokens: list = []
    ends: list[int] = []
    operand, depth = True, 0  # whether a number is next, how many brackets are open
    while at < len(text) and len(tokens) <= MOST_TOKENS:
        character = text[at]
        if character in " \u00a0" or (operand and text.startswith(f"{JOINER}((", at)):
            at += 1
            continue
        signed = _SIGNED.match(text, at) if operand else None
        match = NUMBER.match(text, signed.end()) if signed else None
        if match and not match["odd"]:
            [number, *others] = _of_match(text, match, comma)
            # What stands before it may be an operator, too: then it was taken for the number's sign already.
            value = _signed("-" if number.start < match.start() else "", number.value)
            value = _signed("-" if text[at] in "-–" else "", value)
            tokens.append(Number(value, at, number.end, number.form))
            ends.append(number.end)
            unit = _UNIT.match(text, number.end)
            at, operand = unit.end() if unit else number.end, False
            if others:  # a list
                break
            continue
        if operand and character == "(" and depth < 20:
            depth += 1
        elif not operand and character == ")" and depth:
            depth -= 1
        elif not operand and character == JOINER:  # a mixed number
            operand, character = True, "+"
        elif not operand and character in _OPERATORS and _joins(text, at):
            operand = True
        elif not (operand and character in _SIGNS and (not tokens or tokens[-1] == "(")):  # the sign of a bracket
            break
        at += 1
        tokens.append(character)
        ends.append(at)
    return tokens, ends


def _joins(text: str, at: int) -> bool:
    """True if an operator's sign is one here: an x or a colon between numbers, a dash with spaces around it."""
    character = text[at]
    spaced = text[at - 1 : at] == " " and text[at + 1 : at + 2] == " "
    if character == "–":
        return spaced
    if character in "xX":
        return text[at + 1 : at + 3].strip()[:1].isdigit()
    return spaced if character == ":" else True


def _is_range(tokens: list) -> bool:
    """True of 3-5: a dash between two numbers alone, the second one larger."""
    return len(tokens) == 3 and tokens[1] in ("-", "–") and in_order(tokens[0], tokens[2])


def _exact(number: Number) -> Fraction | None:
    value = number.value
    return None if value is None or len(value) > 2 * MOST_DIGITS else Fraction(value)


def _value(tokens: list) -> Fraction:
    """Calculate, operators of one rank from left to right.

    Raises:
        ArithmeticError, ValueError, IndexError: it cannot be calculated.
    """
    rest = tokens[::-1]

    def bounded(value: Fraction) -> Fraction:
        if max(abs(value.numerator), value.denominator).bit_length() > 4 * MOST_DIGITS:
            raise OverflowError
        return value

    def total() -> Fraction:
        value = Fraction(0) if rest[-1] in _SIGNS else product()
        while rest and rest[-1] in _SIGNS:
            value = bounded(value + product() if rest.pop() == "+" else value - product())
        return value

    def product() -> Fraction:
        value = factor()
        while rest and rest[-1] in _OPERATORS and rest[-1] not in _SIGNS:
            value = bounded(value / factor() if rest.pop() in "/÷:" else value * factor())
        return value

    def factor() -> Fraction:
        operand = rest.pop()
        value = total() if operand == "(" else _exact(operand)
        if value is None or (operand == "(" and rest.pop() != ")"):
            raise ValueError
        return value

    return total()
