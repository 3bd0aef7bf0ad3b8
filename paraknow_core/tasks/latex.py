"""LaTeX as plain text, as far as reading a number needs it. One pass, no recursion: linear in any input."""

import re

from paraknow_core.tasks.characters import HARD_SPACE, JOINER

_TOKEN = re.compile(r"\\([A-Za-z]+)\*?[ \t]*|\\(.)|([{}])|([^\\{}]+)|\\", re.DOTALL)
_SHORT_FRACTION = re.compile(r"(\\[dtcs]?frac|\\nicefrac)[ \t]*([0-9])")
_HALF_FRACTION = re.compile(r"(\\(?:[dtcs]?frac|nicefrac)\{[^{}]*\})[ \t]*([0-9])")
_SHORT_BOX = re.compile(r"\\(f?box|boxed)[ \t]*(-?[0-9][0-9.,]*)")
_ROOT_OF = re.compile(r"\\sqrt[ \t]*\[[^\[\]]*\]")
_TIE = re.compile(r"(?<=[0-9])~(?=[0-9]{3}(?![0-9]))")
_DOUBLED = re.compile(r"\\\\(?=(?:boxed|[dtc]?frac|text|times|cdot)\b)")  # of a text that was escaped once more
_NUMERAL = re.compile(r"[-\u2212]?[0-9][0-9.,'\u00a0]*")

# What a command's group is; of other commands, the sign that they show.
_GROUPS = {
    **dict.fromkeys("frac dfrac tfrac cfrac sfrac nicefrac flatfrac".split(), "numerator"),
    **dict.fromkeys("boxed fbox framebox".split(), "box"),
    **dict.fromkeys("text textbf textit textrm textsf texttt mbox hbox mathrm operatorname emph".split(), "words"),
    **dict.fromkeys("tag label ref eqref color hspace vspace phantom begin end".split(), "dropped"),
}
_SILENT = set(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits bf rm it mathbf mathit mathsf "
    "mathord mathpunct boldsymbol bm underline underbrace mathstrut ensuremath".split()
)
_SIGNS = (
    "times× cdot· ast* div÷ approx≈ simeq≈ cong≈ equiv= piπ sqrt√ overline‾ dot‾ pm± degree° circ° infty∞ to→ "
    "rightarrow→ Rightarrow→ implies→ longrightarrow→ Longrightarrow→ dots… ldots… cdots… euro€ pounds£ yen¥ "
    "textdollar$ texteuro€ percent% slash/ minus- textminus- textendash– textemdash– ne≠ neq≠ le≤ leq≤ ge≥ geq≥ lt< gt>"
)
_SYMBOLS = {
    **{written[:-1]: written[-1] for written in _SIGNS.split()},
    **dict.fromkeys(("quad", "qquad", "space"), " "),
    **dict.fromkeys(("newline", "par"), "\n"),
    **dict.fromkeys(("thinspace", "enspace", "nobreakspace"), HARD_SPACE),
}
_ESCAPES = {
    **dict.fromkeys(",;: ", HARD_SPACE),
    **dict.fromkeys("!/-", ""),
    **dict.fromkeys("()[]", " "),
    "\\": "\n",
    "{": "(",
    "}": ")",
}


def plain_latex(text: str) -> tuple[str, str | None]:
    r"""Write LaTeX as plain text.

    Args:
        text: LaTeX, plain text, or a mixture.

    Returns:
        The text, e.g. `\frac{3}{4}` as 3/4, `9{,}500` as 9,500, `\text{ kg}` as kg, `10^{5}` as 10^5, without boxes'
        marks; and the content of the last closed box, None if there is none.
    """
    if "\\" not in text and "{" not in text:
        return text, None
    text = _ROOT_OF.sub(r"\\sqrt", _DOUBLED.sub(r"\\", text))
    text = _TIE.sub(HARD_SPACE, text)
    text = _SHORT_BOX.sub(r"\\\1{\2}", text)
    text = _HALF_FRACTION.sub(r"\1{\2}", _SHORT_FRACTION.sub(r"\1{\2}", text))
    return _Writer().run(text)


class _Writer:
    """The text written so far, and the groups that are open: (kind, where it begins, a denominator's numerator)."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.open: list[tuple[str, int, tuple[int, int]]] = []
        self.numerator = (0, 0)  # the last one: where it begins and ends
        self.box: tuple[int, int] | None = None

    def run(self, text: str) -> tuple[str, str | None]:
        pending = ""  # what the next group is
        for command, escape, brace, plain in _TOKEN.findall(text):
            if command:
                pending = _GROUPS.get(command, "")
                if not pending and command not in _SILENT:
                    self.out.append(_SYMBOLS.get(command, f" {command} "))
            elif brace == "{":
                self._begin(pending)
                pending = ""
            elif brace:
                pending = self._end()
            elif escape:
                self.out.append(_ESCAPES.get(escape, escape))
                pending = ""
            else:
                self.out.append(plain)
                pending = pending if not plain.strip() else ""
        box = "".join(self.out[slice(*self.box)]) if self.box else None
        return "".join(self.out), box

    def _begin(self, kind: str) -> None:
        if not kind and self.out and self.out[-1].endswith("^"):
            kind = "power"
        if kind == "words":
            self.out.append(" ")
        if kind == "denominator":
            self.out.append("/")
        self.open.append((kind, len(self.out), self.numerator))
        self.out.append("")  # room for a bracket

    def _end(self) -> str:
        """Close the innermost group; return what a group right after it is."""
        if not self.open:
            return ""
        kind, begin, top = self.open.pop()
        if kind == "box":
            self.box = (begin, len(self.out))
        elif kind == "words":
            self.out.append(" ")
        elif kind == "dropped":
            del self.out[begin:]
            self.box = self.box if self.box and self.box[1] <= begin else None
        elif kind == "power" and not re.fullmatch(r"[-+]?[0-9]+|[^0-9]*", self._short(begin)):
            self._bracket(begin)
        elif kind == "numerator":
            self.numerator = (begin, len(self.out))
            self.out.append("")  # room for a bracket
            return "denominator"
        elif kind == "denominator":
            if _NUMERAL.fullmatch(self._short(*top)) and _NUMERAL.fullmatch(self._short(begin)):
                self.out[top[0]] = JOINER
            else:
                self.out[top[0]], self.out[top[1]] = f"{JOINER}((", ")"
                self._bracket(begin)
                self.out.append(")")
        return ""

    def _bracket(self, begin: int) -> None:
        self.out[begin] = "("
        self.out.append(")")

    def _short(self, begin: int, end: int | None = None) -> str:
        """The text of a group if it is of a few pieces, else one that matches nothing."""
        pieces = self.out[begin : min(begin + 8, end or len(self.out))]
        return "".join(pieces).strip() if begin + len(pieces) == (end or len(self.out)) else "?0"
