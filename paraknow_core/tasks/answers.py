r"""Find and compare answers in text. Pure functions on strings.

Every comparison of text is of its NFC: é is one letter whether it was written as one character or as two. It is not of
its NFKC, which would make one text of 10² and 102, or of ½ and 1/2; `numerals` reads such numbers itself.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from paraknow_core.errors import DataError
from paraknow_core.tasks.characters import JOINER, nfc, plain_characters
from paraknow_core.tasks.latex import plain_latex
from paraknow_core.tasks.numerals import Number, calculate, decimal_marks, in_order, numbers
from paraknow_core.tasks.task import Example

_EQUALS = re.compile(r"=+>?|[≈→⇒≃≅]|->")
_NUMBER_MARK = r"[$€£¥₹(+–\-" + JOINER + r"]"
_STARTS = re.compile(rf"=?[ ]?(?:{_NUMBER_MARK}[ ]?)*\.?[0-9]")
_APART = re.compile(r"^\s*([-–])[ ]+(?=[$€£]?\.?[0-9])")
_HASHES = re.compile(r"(?<!#)####(?!#)([^\n]*)")
_HEADING = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,2}){0,3}(?:[.):]+|[ ][-–:])[ ]+[^\W\d_]")
_TITLE = re.compile(r"[0-9.]+(?:(?:st|nd|rd|th)\b|[ ][A-Z][a-z]+(?![a-zA-Z]))")
_FRACTION = re.compile(rf"[-–]?{JOINER}\(\(")  # of more than two numerals
_ANSWER_IS = re.compile(r"\banswer(?:[ ](?:to|of|for)\b[^.\n]{0,80}?)?[ ]+is\b[:\s]*", re.IGNORECASE)
_ANSWER = re.compile(
    r"(?<![/\w-])(?:answer\x22?[ ]?:|(?:(?<=the )|(?<=final )|^)answer[ ]?=)[\s=]*", re.IGNORECASE | re.MULTILINE
)
# Far beyond what any answer has, so that hostile ones take no time: lines with ####, words "answer is", numbers of
# what is given as the answer, characters of the line that ends with it.
_MARKS, _PLACES, _NUMBERS, _LINE = 1000, 20, 1000, 20_000
_NAMED = re.compile(r"(?:[A-Za-z]\w{0,20}[ ]?(?:\([A-Za-z]\))?[ ]?=[ ]?)?")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？;；]|,(?=\s)|\b(?:because|since|where|when|if|given)\b")
_OR = re.compile(
    r"[$€£%°)\]]{0,3}(?:[ ][^\W\d_]+){0,2}[ ]?(?:\b(?:or|and|to|oder|bis|ou)\b|[,;|±–-])[ ]?(?=[-–]?[$€£¥]?\.?[0-9])"
)
_TIGHT = re.compile(r"[$€£%]?(?:[ ](?:or|oder|ou)[ ]|[–-])[$€£]?")
_ITEM = re.compile(r"^[ \t]*(?:#+[ ]*)?(?:(?:step|part)[ ]+)?([0-9]{1,2})[.):]+[ \t]+(?=\S)", re.I | re.M)
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,9}[ ]?/?>")
_BOLD = re.compile(r"(?<![0-9])\*\*|\*\*(?![0-9])|__|`")
_SUFFIX = re.compile(r"[\s$€£¥%°*_.!]*")
_SHORT = 2000  # characters of a text whose answer is remembered: all together take 8 MB at most
_PREFIX = re.compile(r"[\s$€£¥*_+–-]*")


@dataclass(frozen=True)
class Answer:
    """The number that a text gives as its answer.

    Attributes:
        number: in plain notation; None if the text gives none that can be read.
        doubt: if another reader could take another number: what is doubtful, as a clause; else "".
        form: "1.234" or "1,234" if what it is depends on the language of the whole task, else "".
    """

    number: str | None
    doubt: str = ""
    form: str = ""


def extract_number(text: str, *, strict: bool = False) -> str | None:
    """Find the number that a text gives as its answer; see `read_answer`.

    Returns:
        The number in plain notation, e.g. "-1200.5" or "1/3", without `$`, `,`, `%` and needless zeros; None if there
        is none.
    """
    return read_answer(text, strict=strict).number


def read_answer(text: str, *, strict: bool = False) -> Answer:
    r"""Find the number that a text gives as its answer.

    These places are tried in turn, LaTeX and Markdown being read as what they show:

    1. the first line `#### NUMBER`, with nothing but a unit after it (GSM8K's form). Headings such as
       `#### 1. Count the pens` are none.
    2. the last `\boxed{}`.
    3. the last "answer is", or "answer:" before a number and its unit.
    4. the last number of the text. Numbers of list items, times, dates and names (A4, m^2, 3rd) only count where there
       is no other.

    In the first three, an equation is read on its right side (`5 + 3 = 8` is 8) and a calculation is carried out. Of
    several numbers there (`3 or 4`) the first counts, and there is a doubt. `numerals` says how a number is read; if
    the text itself shows decimal commas and no decimal point, 1,234 and 1.234 are read accordingly.

    Args:
        text: a reference or a model's output.
        strict: only the first place counts.
    """
    return (_remembered if len(text) <= _SHORT else _read)(text, strict)


def _read(text: str, strict: bool) -> Answer:
    plain, box = plain_latex(plain_characters(text))
    points, commas = decimal_marks(plain)
    comma = commas > points
    plain = _without_markup(plain)
    answer = _marked(plain, comma)
    if answer is None and not strict:
        answer = _in_segment(_without_markup(box), comma) if box is not None else None
        answer = answer or _claimed(plain, comma) or _last(plain, comma)
    if answer is None:
        return Answer(None)
    if answer.form and commas and points:
        return replace(answer, doubt="it mixes decimal points and decimal commas")
    if answer.form == "1,234" and commas:
        return replace(answer, doubt="other numbers in it have decimal commas")
    return replace(answer, form="") if commas else answer


_remembered = lru_cache(maxsize=4096)(_read)  # a reference is read by every run of its task


def check_numbers(
    examples: Sequence[Example], place: Callable[[Example], str] = lambda example: f"example {example.id}"
) -> None:
    """Refuse references that do not give one number, or one that two readers could read differently.

    1,234 is read as in English, 1234, unless the examples together have more decimal commas (3,5) than decimal points.
    1.234 is a decimal if the examples show decimal points elsewhere (2.50), and no more decimal commas than those.

    Args:
        examples: with their references.
        place: how a sentence names one of them.

    Raises:
        DataError: names the first such example and how to write its answer.
    """
    formed: list[tuple[Example, Answer]] = []
    for example in examples:
        answer = read_answer(example.reference)
        if answer.number is None:
            raise DataError(f"{place(example)}: its answer holds no number; use exact_match, not number_match")
        if answer.doubt:
            raise DataError(
                f"{place(example)}: its answer ...{example.reference[-40:]!r} is not one number: {answer.doubt}; "
                "end it with #### and the number, such as #### 1234 or #### 0.5, or use exact_match"
            )
        if answer.form:
            formed.append((example, answer))
    if not formed:
        return
    texts = (text for example in examples for text in (example.question, example.reference))
    points, commas = map(sum, zip(*(decimal_marks(plain_characters(text)) for text in texts), strict=True))
    for example, answer in formed:
        if commas > points or (answer.form == "1.234" and not points):
            mark = answer.form[1]
            why = "other numbers have decimal commas" if commas > points else "no other number shows decimal points"
            raise DataError(
                f"{place(example)}: its answer can be {answer.number} or "
                f"{_other_reading(answer.number or '', answer.form)}, depending on what '{mark}' is ({why}); write "
                "thousands without a mark (1234) and decimals with a point and not three digits (1.2340)"
            )


def _other_reading(number: str, form: str) -> str:
    """What a number of the form 1,234 or 1.234 is where the mark has its other meaning."""
    if form == "1,234":
        return f"{number[:-3]}.{number[-3:]}"
    whole, _, part = number.partition(".")
    return whole + part.ljust(3, "0")


def plain_number(text: str) -> str | None:
    """Bring one number to plain notation: "$1,200.50" -> "1200.5", "7.00." -> "7"; None if it is not a number."""
    plain = _without_markup(plain_latex(plain_characters(text))[0])
    match list(numbers(plain)):
        case [number] if _PREFIX.fullmatch(plain[: number.start]) and _SUFFIX.fullmatch(plain[number.end :]):
            return number.value
    return None


def same_number(first: str | None, second: str | None) -> bool:
    """True if both are numbers and equal, exactly: 1.0 equals 1, 3/4 equals 0.75, 1/3 does not equal 0.333."""
    if first is None or second is None:
        return False
    plain = plain_number(first)
    return plain is not None and plain == plain_number(second)


def normalise_answer(text: str) -> str:
    """Return the text in NFC, with every run of white space as one space and none at its ends."""
    return " ".join(nfc(text).split())


def _without_markup(text: str) -> str:
    text = _CALCULATOR.sub("", text) if "<<" in text else text
    if "<" in text:
        text = _TAG.sub("", text.replace("<answer>", "answer: "))
    return _BOLD.sub("", text)


def _marked(text: str, comma: bool) -> Answer | None:
    """Read the first line that is `####` and a number, first of those without words after it."""
    first: Answer | None = None
    bare: list[Answer] = []
    for line in islice(_HASHES.finditer(text), _MARKS):
        rest = line.group(1).strip(" \t\r\u00a0*_>'\"")
        if not _STARTS.match(rest) or _HEADING.match(rest) or _is_title(rest, text, line.end()):
            continue
        answer = _in_segment(rest, comma)
        if answer is not None:
            first = first or answer
            if not re.search(r"[^\W\d_]", rest):
                bare.append(answer)
    if len({answer.number for answer in bare}) > 1 and not bare[0].doubt:
        return replace(bare[0], doubt="it has several lines with ####")
    return bare[0] if bare else first


def _is_title(rest: str, text: str, end: int) -> bool:
    """True of `#### 2 Price them` and `#### 1st step` if text follows, and of `#### 2 Price` if it does at once."""
    title = _TITLE.match(rest)
    return title is not None and bool(text[end + 1 : end + (2 if title.end() == len(rest) else 200)].strip())


def _in_segment(segment: str, comma: bool) -> Answer | None:
    """Read what is given as the answer: of an equation the last side that has a number; None if there is none."""
    segment = _APART.sub(r"\1", segment)
    strong = [number for number in islice(numbers(segment, comma=comma), _NUMBERS) if not number.weak]
    if not strong:
        return None
    segment = segment if len(strong) < _NUMBERS else segment[: strong[-1].end]
    begin, end = 0, len(segment)
    for sign in _EQUALS.finditer(segment):
        if sign.start() > strong[-1].start:
            end = sign.start()
            break
        begin = sign.end()
    side = [number for number in strong if number.start >= begin]
    return Answer(None) if side[0].odd else _calculated(segment[:end], side, begin, comma)


def _calculated(text: str, side: list[Number], begin: int, comma: bool) -> Answer:
    """Carry out the calculation that the first of some numbers begins."""
    number = side[0]
    result = calculate(text, _calculation_start(text, number.start, begin), comma=comma)
    value, end = result or calculate(text, number.start, comma=comma) or (number.value, number.end)
    if end <= number.end:
        value = number.value
    if value is None:
        return Answer(None)
    following = next((other for other in side if other.start >= end), None)
    listed = following is not None and text[end : following.start].strip() in ("", ",", "/")
    doubt = "it gives more than one number" if listed or _OR.match(text, end) else ""
    return Answer(value, doubt, number.form if end <= number.end else "")


def _calculation_start(text: str, at: int, begin: int) -> int:
    """Go back from a number over the brackets that open before it, with their signs."""
    start = at
    for place in range(at - 1, max(begin, at - 20) - 1, -1):
        character = text[place]
        if character == "(" or (character in "-–" and text[place + 1] == "("):
            start = place
        elif character not in f" -–{JOINER}":
            break
    return start


def _claimed(text: str, comma: bool) -> Answer | None:
    """Read what the last "answer is" or "answer:" says."""
    places = [(match.end(), False) for match in _ANSWER_IS.finditer(text)]
    places += [(match.end(), '"' not in match.group()) for match in _ANSWER.finditer(text)]  # a key of JSON holds it
    for at, short in sorted(places, reverse=True)[:_PLACES]:
        stop = text.find("\n", at)
        clause = text[at : stop if stop >= 0 else len(text)]
        first = next((number for number in numbers(clause, comma=comma) if not number.weak), None)
        if first is None or (short and not _is_short(clause, first)):
            continue
        cut = _SENTENCE_END.search(clause, first.end)
        answer = _in_segment(clause[: cut.start()] if cut else clause, comma)
        if answer is not None:
            return answer
    return None


def _is_short(clause: str, first: Number) -> bool:
    """True if what follows "answer:" is a number with a few words; those words may also begin the reasoning."""
    named = _NAMED.match(clause)
    if not named or not _STARTS.match(clause, named.end()) or len(clause) - first.end > 200:
        return False
    cut = _SENTENCE_END.search(clause, first.end)
    more = cut and re.search("[0-9]", clause[cut.end() :])
    return not more and len(re.findall(r"[^\W\d_]+", clause[first.end :])) <= 6


def _last(text: str, comma: bool) -> Answer | None:
    """Read the last number of a text, the lines from the end."""
    items = _items(text)
    weak: Answer | None = None
    end = len(text)
    while end >= 0:
        begin = text.rfind("\n", 0, end) + 1
        if end - begin > _LINE:  # cut where no number goes on
            begin += len(text[begin : end - _LINE].rstrip("0123456789.,'_/^eE"))
        line = text[begin:end]
        readable = [number for number in numbers(line, comma=comma) if not number.odd]
        counting = [number for number in readable if not number.weak and begin + number.start not in items]
        if counting:
            return _at_end(line, counting, comma)
        if readable and weak is None:
            weak = Answer(readable[-1].value, "", readable[-1].form)
        end = begin - 1
    return weak


def _items(text: str) -> set[int]:
    """Return where the numbers of numbered items stand: they count 1, 2, 3 from line to line."""
    places, before = set(), 0
    for item in _ITEM.finditer(text):
        value = int(item.group(1))
        if value in (1, before + 1):
            places.add(item.start(1))
            before = value
    return places


def _at_end(line: str, counting: list[Number], comma: bool) -> Answer:
    """Read the last number of a line; if it ends a calculation that stands after an equals sign, the result."""
    number, near = counting[-1], max(0, counting[-1].start - 300)
    equals = list(_EQUALS.finditer(line, near, number.start))
    side = [other for other in counting[-100:] if equals and other.start >= equals[-1].end()]
    if len(side) > 1:
        result = calculate(line[: number.end], _calculation_start(line, side[0].start, equals[-1].end()), comma=comma)
        if result and result[0] is not None and result[1] >= number.end:
            return Answer(result[0])
    for fraction in islice(_FRACTION.finditer(line, near, number.start), 20):
        result = calculate(line, fraction.start(), comma=comma)
        if result and result[1] >= number.end:
            return Answer(result[0])
    joined = False
    if len(counting) > 1 and (between := _TIGHT.fullmatch(line, counting[-2].end, number.start)):
        # Of a dash: 3-5 is a range, 5-3 is not.
        joined = between.group().strip("$€£% ").isalpha() or in_order(counting[-2], number)
    return Answer(number.value, "it gives more than one number" if joined else "", number.form)
