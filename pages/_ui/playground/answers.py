"""The playground's answers: tokens shaded by probability, what else was likely on hover, and how each answer ended."""

from collections.abc import Mapping
from html import escape

import streamlit as st

from pages._ui.frame.layout import plain, say
from paraknow_core.display import counted, percent, significant
from paraknow_core.workbench.playground import Column

# Lower bounds of the classes, their CSS class, and how the legend calls them. One hue, light to dark, so that it is
# safe for the colour-blind; the last two are underlined as well, so that shade is never the only sign.
CLASSES = (
    (0.9, "a", "90 % and more"),
    (0.5, "b", "50–90 %"),
    (0.2, "c", "20–50 %"),
    (0.05, "d", "5–20 %"),
    (0.0, "e", "below 5 %"),
)
RICH = 400  # tokens of an answer up to which each has its own list of alternatives
ENDS = {
    "end": "ended by itself",
    "max_new_tokens": "reached the limit of new tokens",
    "context": "the context is full",
    "turn": "began the next turn, cut there",
    "stopped": "stopped",
    "failed": "failed",
}


def css_class(p: float) -> str:
    """Return the class of a probability."""
    return next(name for low, name, _ in CLASSES if p >= low or low == 0.0)


def legend() -> None:
    """Draw what the shades mean."""
    chips = "".join(f'<span class="pk-t pk-t{name}">{words}</span>' for _, name, words in CLASSES)
    st.html(
        '<div class="pk-shades" data-testid="legend"><span class="pk-quiet">Probability of each token under the model '
        f"(temperature 1):</span>{chips}<span class='pk-quiet'>Point at a token for what else was likely.</span></div>"
    )


def tokens_html(column: Column, *, live: bool, right: bool) -> str:
    """Return an answer as HTML: one element a token."""
    rich = not live and len(column.tokens) <= RICH
    parts = []
    for token in column.tokens:
        text = token["text"] + (f"⟨{token['end_mark']}⟩" if "end_mark" in token else "")
        if not text:
            continue  # part of a character that the next token finishes
        tip = f'<span class="pk-tip">{_tip(token)}</span>' if rich else ""
        title = "" if rich or live else f' title="{escape(_plain_tip(token), quote=True)}"'
        focus = ' tabindex="0"' if rich else ""
        quiet = ' style="opacity:.8"' if "end_mark" in token else ""
        shade = css_class(token["p"])
        parts.append(f'<span class="pk-t pk-t{shade}"{focus}{title}{quiet}>{escape(text)}{tip}</span>')
    caret = '<span class="pk-caret">▍</span>' if live else ""
    empty = '<span class="pk-quiet">nothing was written</span>' if not parts and not live else ""
    side = " pk-right" if right else ""
    return f'<div class="pk-written{side}" data-testid="answer" role="group">{"".join(parts)}{caret}{empty}</div>'


def _tip(token: Mapping) -> str:
    rows = [f"<b>{_visible(token['text'] or token.get('end_mark', ''))}</b>  {_share(token['p'])}"]
    rows += [f"{number}. {_visible(text)}  {_share(p)}" for number, (text, p) in enumerate(token.get("top") or [], 1)]
    return "\n".join(rows)


def _share(p: float) -> str:
    return percent(p) if p >= 0.0005 else "< 0.1 %"


def _plain_tip(token: Mapping) -> str:
    rest = "; ".join(f"{text!r} {percent(p)}" for text, p in token.get("top") or [])
    return f"{percent(token['p'])}. Most likely: {rest}"


def _visible(text: str) -> str:
    """Show white space that would be invisible in a list."""
    return escape(
        text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣") if not text.strip() else text.strip("\n")
    )


def draw(column: Column, orphaned: bool, place: int, judged: bool = True) -> None:
    """Draw one answer and a line on how it went.

    Args:
        column: the answer.
        orphaned: nothing more will come.
        place: of the column, from the left.
        judged: whether the answer was compared with the reference that stands under the prompt.
    """
    live = not column.end and not orphaned
    if column.error:
        say(column.error)
    if column.tokens or live:
        st.html(tokens_html(column, live=live, right=place % 2 == 1))
    st.caption(plain(_how(column, orphaned, judged)))


def _how(column: Column, orphaned: bool, judged: bool) -> str:
    parts = [counted(column.written, "token")] if column.written else []
    if column.per_second:
        parts.append(f"{significant(column.per_second, 2)} tokens/s")
    if column.tokens:
        parts.append(f"mean probability {percent(column.mean_probability)}")
    if column.end:
        parts.append(ENDS.get(column.end, column.end))
    elif orphaned and not column.end:
        parts.append("cut off: the process ended")
    if column.score is not None and judged:
        right = {1.0: "✓ matches the reference", 0.0: "✗ differs from the reference"}
        parts.append(right.get(column.score, f"overlap with the reference {percent(column.score)}"))
    return " · ".join(parts) or "waiting for its turn"
