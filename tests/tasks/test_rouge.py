"""ROUGE-L of every script, against `rouge-score` where that knows the letters, and against a plain table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.tasks.rouge import longest_common, rouge_l, tokens

# Name -> two sentences without a common token.
SCRIPTS = {
    "Latin": ("Żółw pił wodę", "naïve café"),
    "Turkish": ("İstanbul'da yağmur", "ısı düştü"),
    "German": ("Die Straße heißt", "größer Maß"),
    "Vietnamese": ("Tiếng Việt", "đường phố"),
    "Greek": ("Καλημέρα κόσμε", "μικρή πόλη"),
    "Cyrillic": ("мир и дом", "свет без тени"),
    "Armenian": ("Բարեւ աշխարհ", "փոքր քաղաք"),
    "Georgian": ("გამარჯობა მსოფლიო", "პატარა ქალაქი"),
    "Hebrew": ("שָׁלוֹם עולם", "עיר קטנה"),
    "Arabic": ("مرحبا بالعالم", "مدينة صغيرة"),
    "Persian": ("می\u200cخواهم بروم", "شهر کوچک"),
    "Devanagari": ("हिन्दी भाषा", "छोटा शहर"),
    "Bengali": ("বাংলা ভাষা", "ছোট শহর"),
    "Tamil": ("தமிழ் மொழி", "சிறிய நகரம்"),
    "Telugu": ("తెలుగు భాష", "చిన్న నగరం"),
    "Sinhala": ("සිංහල භාෂාව", "කුඩා නගරය"),
    "Tibetan": ("བོད་སྐད", "གྲོང་ཁྱེར"),
    "Ethiopic": ("ሰላም ለዓለም ፳፫", "ትንሽ ከተማ"),
    "Hangul": ("한국어 문장", "작은 도시"),
    "Han": ("今天天气很好", "明年下雨吗"),
    "Japanese": ("スーパーで買う", "小さい町"),
    "Thai": ("น้ำดื่ม", "เมืองเล็ก"),
    "Lao": ("ພາສາ", "ເມືອງ"),
    "Khmer": ("ខ្មែរ", "ទីក្រុង"),
    "Burmese": ("ဗမာ", "ရေ"),
    "digits": ("٢٠٢٣", "۲۴"),
    "emoji": ("👍👩‍🚀", "👎👩‍🔬"),
    "flags": ("🇩🇪", "🇫🇷"),
    "symbols": ("<= …", "∞ +"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_counts(script):
    import unicodedata

    first, second = SCRIPTS[script]
    assert rouge_l(first, first) == rouge_l(second, second) == 1.0
    assert rouge_l(first, unicodedata.normalize("NFD", first)) == 1.0
    assert rouge_l(first, second) == rouge_l(second, first) == 0.0
    assert rouge_l(first, "") == 0.0
    for mixed in ("{} 2023 GPU", "GPU{}", "{}2023"):  # a digit or a Latin word does not hide the rest
        assert rouge_l(mixed.format(first), mixed.format(first)) == 1.0
        if script not in ("emoji", "flags", "symbols"):
            assert rouge_l(mixed.format(first), mixed.format(second)) < 1.0


@pytest.mark.parametrize(
    "reference, output, score",
    [
        ("2023年的首都是北京", "2023年上海最大", 2 * 2 / (8 + 6)),
        ("使用Python编写代码", "Python", 2 * 1 / (7 + 1)),
        ("今天天气很好", "明天下大雨吗", 2 * 1 / (6 + 6)),
        ("東京は大きい", "東京は小さい", 4 / 6),
        ("हिन्दी भाषा", "हिन्दु भाषा", 1 / 2),
        ("Straße", "STRASSE", 1.0),
        ("IŞIK", "ışık", 1.0),
        ("İstanbul", "istanbul", 1.0),
        ("ΟΔΟΣ", "οδος", 1.0),
        ("ＡＢＣ １２３", "abc 123", 1.0),
        ("ｶﾞｷﾞ", "ガギ", 1.0),
        ("ﬁne", "fine", 1.0),
        ("می\u200cخواهم", "میخواهم", 1.0),
        ("café", "cafe", 0.0),
        ("❤️", "❤", 1.0),
        ("👍", "👍 yes", 2 / 3),
        ("great 👍", "great", 1.0),
        ("Brand™ 5 m²", "brand 5 m", 1.0),
    ],
)
def test_by_hand(reference, output, score):
    assert rouge_l(reference, output) == pytest.approx(score)


def test_tokens_keep_marks_with_their_letters():
    assert tokens("หน้า 12 น้ำ") == ["ห", "น้", "า", "12", "น้", "ำ"]
    assert tokens("हिन्दी में x2") == ["हिन्दी", "में", "x2"]
    assert tokens("Don’t re-read naïve papers") == ["don", "t", "re", "read", "naïve", "paper"]
    assert tokens("a👍\n…", symbols=True) == ["a", "👍", "…"]


@given(
    st.text(alphabet=st.characters(max_codepoint=127), max_size=60),
    st.text(st.sampled_from("abs yed17.-_\n"), max_size=60),
)
def test_ascii_text_scores_as_by_rouge_score(reference, output):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for one, other in ((reference, output), (output, reference), (reference, reference), (output, output)):
        if tokens(one):
            assert rouge_l(one, other) == scorer.score(one, other)["rougeL"].fmeasure


@pytest.mark.parametrize("reference, output", [("“Dogs” — it’s 5 €…", "the dog’s 5"), ("running • runs", "he runs")])
def test_english_punctuation_scores_as_by_rouge_score(reference, output):
    from rouge_score.rouge_scorer import RougeScorer

    assert (
        rouge_l(reference, output)
        == RougeScorer(["rougeL"], use_stemmer=True).score(reference, output)["rougeL"].fmeasure
    )


@given(st.text(min_size=1, max_size=40).filter(str.strip), st.text(max_size=40))
def test_any_text_equals_itself_and_scores_are_shares(text, other):
    assert rouge_l(text, other) <= 1.0
    if tokens(text) or tokens(text, symbols=True):
        assert rouge_l(text, text) == 1.0


@given(st.text("abcd", max_size=12), st.text("abcd", max_size=12))
def test_longest_common_against_a_plain_table(first, second):
    row = [0] * (len(second) + 1)
    for one in first:
        before, row = row, [0]
        for at, other in enumerate(second):
            row.append(before[at] + 1 if one == other else max(row[-1], before[at + 1]))
    assert longest_common(list(first), list(second)) == row[-1]


def test_long_texts():
    assert rouge_l("天地" * 30_000, "地天人" * 300) == pytest.approx(2 * 600 / (60_000 + 900))
    assert rouge_l("y" * 300_000, "y" * 300_000) == 1.0
    assert rouge_l("a" + "\u0301\u0316" * 150_000, "b") == 0.0
