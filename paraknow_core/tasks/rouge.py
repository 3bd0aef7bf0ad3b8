"""ROUGE-L for text of any script: `rouge-score`'s tokens and numbers where it knows the letters, words elsewhere.

| text | tokens |
|---|---|
| words of ASCII letters and digits | as `rouge-score`: lower case, stemmed, cut at everything else |
| words of other letters and digits | without regard to case, whole, with their accents, vowel signs and other marks |
| Chinese, Japanese, Thai, Lao, Khmer, Burmese and other text without spaces | each character with its marks |
| symbols, emoji, punctuation | none, as in `rouge-score`; but where the reference has nothing else, each counts |

Texts are brought to NFC. Beyond that only presentation forms (full and half width, ligatures, the shapes of Arabic
letters) become the letters that they show: NFKC of everything would also change tokens of English text (TM for ™), and
with them numbers that `rouge-score` gives.

Source:
    Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from paraknow_core.tasks.characters import nfc

# Scripts that put no spaces between words.
_UNSPACED = (
    "Han Hiragana Katakana Bopomofo Yi Thai Lao Khmer Myanmar Javanese Balinese Tai_Le New_Tai_Lue Tai_Tham Tai_Viet "
    "Nushu Tangut Egyptian_Hieroglyphs Cuneiform"
).split()
_DOTS = {0x131: "i"}  # Turkish has four letters I in two pairs; without regard to case they are one


def rouge_l(reference: str, output: str) -> float:
    """Return the ROUGE-L F-measure: 2PR / (P + R) of the longest common subsequence of tokens.

    Returns:
        Between 0 and 1; of text in ASCII exactly what `rouge-score` gives with its stemmer.
    """
    right, written = tokens(reference), tokens(output)
    if not right:
        right, written = tokens(reference, symbols=True), tokens(output, symbols=True)
    if not right or not written:
        return 0.0
    common = longest_common(right, written)
    precision, recall = common / len(written), common / len(right)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def tokens(text: str, *, symbols: bool = False) -> list[str]:
    """Cut a text into tokens.

    Args:
        text: of any script.
        symbols: every character that is no white space counts, in the order of the text.
    """
    if text.isascii() and not symbols:
        return _stemmer().tokenize(text)
    pattern = _patterns()
    text = pattern["shown"].sub(lambda form: unicodedata.normalize("NFKC", form.group()), nfc(text))
    text = pattern["joins"].sub("", text)
    cut = []
    for match in pattern["with symbols" if symbols else "tokens"].finditer(text):
        token = match.group()
        if not token.isascii():
            token = nfc(token.casefold()).translate(_DOTS).replace("i\u0307", "i")
        cut += (_stemmer().tokenize(token) or [token]) if token.isascii() else [token]
    return cut


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Note:
        One row of the usual table as the bits of one integer: O(n * m / 64) time, O(n) memory.

    Source:
        Hyyrö, Bit-parallel LCS-length computation revisited, 2004.
    """
    long, short = sorted((first, second), key=len, reverse=True)
    bits = {token: bytearray(len(long) // 8 + 1) for token in set(short)}  # where it stands in the long one
    for at, token in enumerate(long):
        if token in bits:
            bits[token][at // 8] |= 1 << at % 8
    places = {token: int.from_bytes(mask, "little") for token, mask in bits.items()}
    everything = (1 << len(long)) - 1
    row = everything  # a bit that is 0: there the table grows by one
    for token in short:
        matches = row & places[token]
        row = ((row + matches) | (row - matches)) & everything
    return len(long) - row.bit_count()


@cache
def _stemmer() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)


@cache
def _patterns() -> dict[str, Any]:
    import regex

    unspaced = "[" + "".join(rf"\p{{Script_Extensions={script}}}" for script in _UNSPACED) + "]"
    # Raised numbers, fractions and numbers in circles are signs of print; numbers of Ethiopic or Tamil are not.
    counted = r"[\p{L}\p{M}\p{Nd}\p{Nl}[\p{No}--[²³¹¼-¾⁰-₉⅐-⅟①-⓿❶-➓㉈-㊿㊀-㊉]]]"
    character = rf"(?=[\p{{L}}\p{{Nl}}\p{{No}}]){unspaced}\p{{M}}*"
    word = rf"(?:(?!(?=[\p{{L}}\p{{Nl}}\p{{No}}]){unspaced}){counted})+"
    flags = regex.V1
    return {
        "shown": regex.compile(r"[\uFB00-\uFDFF\uFE70-\uFEFE\uFF00-\uFFEF]+\p{M}*", flags),
        # Invisible within words; between emoji a joiner makes one of two.
        "joins": regex.compile(r"[\u00AD\u034F\u200C\u2060\uFEFF\uFE0E\uFE0F]|(?<![\p{So}\p{Sk}\uFE0F])\u200D", flags),
        "tokens": regex.compile(rf"{character}|{word}", flags),
        "with symbols": regex.compile(rf"{character}|{word}|(?!\s)\X", flags),
    }
