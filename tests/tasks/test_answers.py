"""Numbers in answers, by hand and by property."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import DataError
from paraknow_core.tasks.answers import (
    check_numbers,
    extract_number,
    normalise_answer,
    plain_number,
    read_answer,
    same_number,
)
from tests.tasks.conftest import ask


@pytest.mark.parametrize(
    "text, strict, loose",
    [
        ("She has 3 + 4 = 7.\n#### 7", "7", "7"),
        ("#### $1,234.50", "1234.5", "1234.5"),
        ("####-5 apples and 6", "-5", "-5"),
        ("#### 7\n\nQuestion: ... #### 9", "7", "7"),
        ("#### none, but 8", None, "8"),
        (r"so \boxed{1} or \boxed{ 42 }", None, "42"),
        (r"\boxed{x} and the answer is 12%.", None, "12"),
        ("So the answer is 10. It took 3 days.", None, "10"),
        ("The answer is: $0.50", None, "0.5"),
        ("10-5=5 cats, 60/100*25=15", None, "15"),
        ("from 20-30", None, "30"),
        ("x = -3", None, "-3"),
        ("it is \u22123", None, "-3"),
        ("costs 2,000,000", None, "2000000"),
        ("1,2345", None, "1.2345"),
        ("a .5 share", None, "0.5"),
        ("7.", None, "7"),
        ("3.0", None, "3"),
        ("-0", None, "0"),
        ("007", None, "7"),
        ("seven", None, None),
        ("####", None, None),
        ("", None, None),
    ],
)
def test_extraction_by_hand(text, strict, loose):
    assert extract_number(text, strict=True) == strict
    assert extract_number(text) == loose


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=3), st.booleans()
)
def test_every_number_is_found_and_equal(value, grouped):
    written = f"{value:,}" if grouped else f"{value}"
    for text in (f"#### {written}", f"The answer is ${written}.", f"\\boxed{{{written}}}", f"thus {written} euros"):
        found = extract_number(text.replace("$-", "-$"))
        assert found is not None and Decimal(found) == value
        assert same_number(found, written)


def test_plain_number_is_no_door_for_huge_exponents():
    assert plain_number("1e999999999") is None
    assert plain_number("NaN") is None
    assert plain_number("Infinity") is None
    assert len(plain_number("9" * 5000)) == 5000
    assert extract_number("1" * 100_000) == "1" * 100_000


def test_comparison():
    assert same_number("1.0", "1")
    assert same_number("$1,000", "1000")
    assert not same_number("1", "1.01")
    assert not same_number(None, None)
    assert not same_number("x", "x")


def test_white_space():
    assert normalise_answer("  a\n\tb  c ") == "a b c"
    assert normalise_answer("cafe\u0301\u00a0\u202f x") == "caf\u00e9 x"
    assert normalise_answer("10\u00b2") != normalise_answer("102")


LATEX = [
    (r"So the total is \boxed{9{,}500}.", "9500"),
    (r"The answer is $9{,}500$.", "9500"),
    (r"\boxed{9\,500}", "9500"),
    (r"\boxed{9,\!500}", "9500"),
    (r"\boxed{9\ 500}", "9500"),
    (r"\boxed{9~500}", "9500"),
    (r"She has 9\,500 pens.", "9500"),
    (r"\boxed{\$1{,}234.50}", "1234.5"),
    (r"\boxed{\frac{3}{4}}", "0.75"),
    (r"\boxed{\dfrac{3}{4}}", "0.75"),
    (r"\boxed{-\tfrac34}", "-0.75"),
    (r"\frac12", "0.5"),
    (r"So it is $-\frac{3+1}{8}$ of them.", "-0.5"),
    (r"\boxed{\frac{-1}{3}}", "-1/3"),
    (r"\boxed{1\frac{1}{2}}", "1.5"),
    (r"\boxed{\frac{9{,}500}{2}}", "4750"),
    (r"\boxed{\frac{3+1}{8}}", "0.5"),
    (r"\boxed{\dfrac{\frac{1}{2}}{\frac{1}{4}}}", "2"),
    (r"\boxed{\text{42}}", "42"),
    (r"\boxed{42\text{ dollars}}", "42"),
    (r"\boxed{\text{Total: } 42\,\mathrm{kg}}", "42"),
    (r"\boxed{42\%}", "42"),
    (r"\boxed{{{5}}}", "5"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{\left(5\right)}", "5"),
    (r"\boxed 5", "5"),
    (r"\\boxed{5}", "5"),
    (r"\boxed{x = 5}", "5"),
    (r"\boxed{5 + 3 = 8}", "8"),
    (r"\boxed{5 \times 3}", "15"),
    (r"\boxed{3 \times 10^{4}}", "30000"),
    (r"\boxed{2^{10}}", "1024"),
    (r"\boxed{12\text{ cm}^2}", "12"),
    (r"\boxed{90^{\circ}}", "90"),
    (r"x = 5 \tag{1}", "5"),
    (r"\boxed{1} and then \boxed{2}", "2"),
    (r"\boxed{5\pi}", None),
    (r"\boxed{\sqrt{16}}", None),
    (r"\boxed{0.\overline{3}}", None),
]
HEADINGS = [
    ("#### 1. Count the pens\n3 + 4 = 7\n\n#### 2. Price them\n7 * 2 = 14\n\nShe pays $14.", None, "14"),
    ("#### 1) Count\n3\n#### 2) Add\n5\n#### 14", "14", "14"),
    ("#### **1. Count**\n5\n#### **2. Add**\n12 pens", None, "12"),
    ("#### 1 - Count\n5\n\n#### 2 - Add\n\n12 pens", None, "12"),
    ("#### 2 Price them\n14", None, "14"),
    ("#### 1.1 Count\n5\n#### 1.2 Add\n12", None, "12"),
    ("#### 1st step\n5\n#### 2nd step\n12", None, "12"),
    ("#### 1. \u6570\u3048\u308b\n5\n#### 2. \u5408\u8a08\n12", None, "12"),
    ("#### Step 1: count\n#### Step 2: 3 + 4 = 7\nThe total is 7", None, "7"),
    ("1. Count 5\n2. Add 7 to make 12\n3. Done", None, "12"),
    ("##### 5 of them\n#### 6", "6", "6"),
    ("#### Answer: 42", None, "42"),
]
MARKED = [
    ("so\n#### \u20ac4", "4"),
    ("so\n#### **4**", "4"),
    ("**#### 4**", "4"),
    ("#### 4 \u20ac", "4"),
    ("#### $4.", "4"),
    ("#### 4 dollars", "4"),
    ("#### 10 Apples", "10"),
    ("#### - 4", "-4"),
    ("#### -$4", "-4"),
    ("#### $-4", "-4"),
    ("#### \u20134", "-4"),
    ("#### \uff0d4", "-4"),
    ("#### 12 %", "12"),
    ("#### 18\r\n", "18"),
    ("#### 3/4", "0.75"),
    ("#### 1/3", "1/3"),
    ("#### 1 1/2", "1.5"),
    ("#### 1\u00bd", "1.5"),
    ("#### 1 234", "1234"),
    ("#### 1\u00a0234", "1234"),
    ("#### 1\u202f234,5", "1234.5"),
    ("#### 1\u2009234\u2009567", "1234567"),
    ("#### 1'234", "1234"),
    ("#### 1\u2019234.50", "1234.5"),
    ("#### 3,5", "3.5"),
    ("#### 0,125", "0.125"),
    ("#### 1,234", "1234"),
    ("#### 1.234,56", "1234.56"),
    ("#### 1,234.56", "1234.56"),
    ("#### 1.234.567", "1234567"),
    ("#### 12,34,567", "1234567"),
    ("#### 1.234", "1.234"),
    ("#### \uff11\uff0c\uff12\uff13\uff14", "1234"),
    ("#### \u0663\u0664", "34"),
    ("#### \u0967\u0968", "12"),
    ("#### 1.5e3", "1500"),
    ("#### 1.5E-3", "0.0015"),
    ("#### 2 \u00d7 10^3", "2000"),
    ("#### 2\u00b710\u00b3", "2000"),
    ("#### 10\u00b2", "100"),
    ("#### 5 + 3 = 8", "8"),
    ("#### 42</s>", "42"),
    ("#### 10:30", None),
    ("#### 5/0", None),
]
SAID = [
    ("The answer is 5 + 3 = 8.", "8"),
    ("The answer is 5 + 3.", "8"),
    ("The answer is 8 = 5 + 3.", "8"),
    ("The answer is 5 apples + 3 apples = 8 apples.", "8"),
    ("The answer is (3 + 4) * 2 = 14", "14"),
    ("The answer is 2 + 3 * 4.", "14"),
    ("The answer is 20 \u00f7 8", "2.5"),
    ("The answer is $5 + $3 = $8. She has 2 left.", "8"),
    ("The answer is 8, because 5 + 4 = 9", "8"),
    ("The answer is 8 because 5 + 4 = 9", "8"),
    ("The answer is 12 \u2013 5 = 7", "7"),
    ("The answer is 3 x 4 = 12", "12"),
    ("The answer is x = 8", "8"),
    ("The answer is **8**.", "8"),
    ("The answer is:\n\n$$8$$", "8"),
    ("The answer is 8. No, the answer is 9.", "9"),
    ("The answer to the question is 42.", "42"),
    ("The answer is \u22125.", "-5"),
    ("The answer is \u20135.", "-5"),
    ("The answer is 3/4 of a cup", "0.75"),
    ("The answer is 3\u20135 days", "3"),
    ("The answer is 10:30.", None),
    ("answer: 42", "42"),
    ("**Answer:** 42", "42"),
    ("Answer:\n42", "42"),
    ("<answer>42</answer>", "42"),
    ('{"answer": 42, "steps": 3}', "42"),
    ("Answer: There are 75/3=25 cats. Then 60/100*25=15 and 15-5=10 cats.", "10"),
    ("24 * 2 points/answer = 48. In all 48 + 16 = 64 points.", "64"),
]
LAST = [
    ("= 8", "8"),
    ("x = 5 + 3", "8"),
    ("x = 60/100*25", "15"),
    ("x = - 3", "-3"),
    ("3 - 5 = -2", "-2"),
    ("temperature \u20135", "-5"),
    ("3\u20135", "5"),
    ("20%-30%", "30"),
    ("1990\u20142000", "2000"),
    ("between \u22125 and \u20133", "-3"),
    ("COVID-19 hit 5 people", "5"),
    ("the area is 25 m^2", "25"),
    ("the area is 25 m\u00b2", "25"),
    ("5 pens on the 3rd day", "5"),
    ("the 3rd", "3"),
    ("$14 on 2024-05-03", "14"),
    ("$14 on 3/4/2024 at 10:30", "14"),
    ("on 2024-05-03", None),
    ("version 1.2.3", None),
    ("1 1/2 cups", "1.5"),
    ("1.234,56 \u20ac", "1234.56"),
    ("2,5 kg + 1.231,5 kg = 1.234 kg", "1234"),
    ("in 2019 100 people", "100"),
    ("(3,5)", "5"),
    ("1,2,3", "3"),
    ("\u7b54\u6848\u662f42\u3002", "42"),
    ("48/2 = <<48/2=24>>24 clips", "24"),
    ("9^9^9^9", None),
]


@pytest.mark.parametrize("text, number", LATEX + SAID + LAST)
def test_the_number_that_a_reader_takes(text, number):
    assert extract_number(text) == number
    assert extract_number(text, strict=True) is None


@pytest.mark.parametrize("text, number", MARKED)
def test_lines_of_gsm8k(text, number):
    assert extract_number(text) == extract_number(text, strict=True) == number


@pytest.mark.parametrize("text, strict, loose", HEADINGS)
def test_headings_are_no_answers(text, strict, loose):
    assert (extract_number(text, strict=True), extract_number(text)) == (strict, loose)


def test_numbers_are_compared_exactly():
    assert same_number("3/4", "0.75") and same_number("2/6", "1/3") and same_number("1 1/2", "1,5")
    assert not same_number("1/3", "0.3333333333333333")
    assert not same_number("0.1", "0.1000000000000000055511151231257827")
    assert not same_number("9007199254740993", "9007199254740992")
    assert same_number(extract_number("The answer is 0.1 + 0.2"), "0.3")


@pytest.mark.parametrize(
    "answer, doubt",
    [
        ("#### 3 or 4", "more than one number"),
        ("#### 3\u20135", "more than one number"),
        ("#### 3-5", "more than one number"),
        ("#### 3 4", "more than one number"),
        ("#### 1,23,4", "more than one number"),
        ("#### 5 hours and 30 minutes", "more than one number"),
        (r"\boxed{3, 4}", "more than one number"),
        ("The answer is 3 or 4.", "more than one number"),
        ("She needs 3 or 4", "more than one number"),
        ("#### 3\n#### 4", "several lines with ####"),
        ("0,5 + 1.5\n#### 1.234", "mixes decimal points and decimal commas"),
        ("0,5 + 0,7\n#### 1,234", "other numbers in it have decimal commas"),
    ],
)
def test_references_that_give_no_one_number_are_refused_by_name(answer, doubt):
    examples = [ask("How many?", "#### 1.5", "file:1"), ask("How many?", answer, "file:2")]
    with pytest.raises(DataError, match=f"example file:2: its answer .*{re.escape(doubt)}.*; end it with #### and"):
        check_numbers(examples)


@pytest.mark.parametrize("answer", ["#### 3\n#### 3", "5-3=2", "#### 3.5", "from 3 to 5", "0,5 + 0,7\n#### 1.234"])
def test_references_without_doubt_pass(answer):
    check_numbers([ask("How many?", answer)])
    assert read_answer(answer).doubt == ""


def test_what_a_mark_means_is_told_by_the_whole_task():
    point, comma = ask("How far?", "#### 1.234", "file:1"), ask("How far?", "#### 1,234", "file:2")
    english, german = (
        ask("It costs $2.50. How many?", "#### 7", "a"),
        ask("Sie zahlt 2,50 Euro. Wie viele?", "#### 7", "b"),
    )
    check_numbers([comma])
    check_numbers([comma, english])
    check_numbers([point, english])
    with pytest.raises(DataError, match="example file:1: its answer can be 1.234 or 1234, .*no other number shows"):
        check_numbers([point])
    for one, readings in ((point, "1.234 or 1234"), (comma, "1234 or 1.234")):
        with pytest.raises(DataError, match=f"example {one.id}: its answer can be {readings}, .*have decimal commas"):
            check_numbers([german, one])


HUGE = {
    "digits": ("#### " + "1" * 300_000, "1" * 300_000),
    "exponent": ("#### 1e999999999", None),
    "long exponent": ("1e" + "9" * 300_000, None),
    "tower": (r"\boxed{9^{9^{9^9}}}", None),
    "power": ("The answer is 99999^99999", None),
    "product": ("The answer is " + "9" * 390 + " * " + "9" * 390, None),
    "fraction": ("1/" + "7" * 300_000, None),
    "groups": ("111," * 30_000 + "1111", "1111"),
    "spaced": ("111 " * 30_000 + "1111", "1111"),
    "brackets": ("The answer is " + "(" * 300_000 + "5", "5"),
    "sum": ("The answer is " + "1+" * 150_000 + "1", None),
    "groups of LaTeX": (r"\boxed{" * 30_000 + "5" + "}" * 30_000, "5"),
    "fractions of LaTeX": (r"\frac{1}{" * 20_000 + "2" + "}" * 20_000, "0.5"),
    "equations": ("=" * 300_000 + "5", "5"),
    "claims": ("answer is " * 30_000 + "5", "5"),
    "lines": ("#### 5\n" * 30_000, "5"),
    "marks": ("5 a" + "\u0301\u0316" * 150_000, "5"),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_texts_are_read_in_linear_time(name):
    text, number = HUGE[name]
    assert extract_number(text) == number


NUMERIC = "0123456789.,'/-\u2013 \u00a0{}()\\$%^=#*+exor\n\u00bd\u00b2fracboxed"


@given(st.text(max_size=200) | st.text(alphabet=NUMERIC, max_size=60))
def test_reading_never_fails(text):
    answer = read_answer(text)
    assert extract_number(text) == answer.number
    assert answer.number is None or plain_number(answer.number) == answer.number
    assert not (extract_number(text, strict=True) is not None and answer.number is None)


@given(st.fractions(max_denominator=10**6))
def test_fractions_are_read_exactly(value):
    for text in (f"#### {value}", rf"\boxed{{\frac{{{value.numerator}}}{{{value.denominator}}}}}"):
        assert same_number(extract_number(text), f"{value.numerator}/{value.denominator}")


def test_answers_of_the_bundled_task_read_as_ever():
    from paraknow_core.demo import tasks as demo

    for record in (
        record for split in ("train", "validation", "test") for record in demo.examples("word_problems", split)
    ):
        reference = record["messages"][-1]["content"]
        number = reference.split("####")[1].strip()
        assert extract_number(reference) == extract_number(reference, strict=True) == number
