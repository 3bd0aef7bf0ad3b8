"""What a limit of tokens does to examples: how many are cut, of which nothing is left to learn, and that in words."""

from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    import pandas

MASKED = "masked out: nothing to learn within the limit"


def nothing_left(whole: numpy.ndarray, prompt: numpy.ndarray, limit: int) -> numpy.ndarray:
    """Tell for each example whether a limit leaves no token to learn; the first token is never predicted.

    Args:
        whole, prompt: tokens of each example and of its prompt, before any cut.
        limit: tokens that are kept.
    """
    return numpy.minimum(whole, limit) <= numpy.maximum(prompt, 1)


def learnt(tokens: int, prompt: int, limit: int) -> int:
    """Return how many tokens of one example are learnt within a limit."""
    return max(0, min(tokens, limit) - max(1, prompt))


def length_sentence(
    whole: numpy.ndarray, prompt: numpy.ndarray, limit: int, why: str, mend: str, does: str = "refuse them"
) -> str:
    """Say in one sentence what a limit does to examples of these lengths.

    Args:
        whole, prompt: tokens of each example and of its prompt, before any cut.
        limit: tokens that are kept; why: what sets it; mend: what would leave more; does: what a run does to them.
    """
    cut, empty = int((whole > limit).sum()), int(nothing_left(whole, prompt, limit).sum())
    words = f"Median {int(numpy.median(whole)):,} tokens, longest {int(whole.max()):,}; "
    words += f"{cut:,} of {len(whole):,} are cut at {limit:,} ({why})" if cut else f"none is cut at {limit:,} ({why})"
    if empty:
        words += f"; of {empty:,} nothing of the answer is left, and a run would {does}: {mend}"
    return words + "."


def lengths_table(ids: list[str], whole: numpy.ndarray, prompt: numpy.ndarray) -> "pandas.DataFrame":
    """Return one row an example: id, tokens, tokens of the prompt."""
    import pandas

    return pandas.DataFrame({"id": ids, "tokens": whole, "prompt_tokens": prompt})


def examples_table(
    value: dict[str, Any], whole: numpy.ndarray, prompt: numpy.ndarray, limit: int
) -> "pandas.DataFrame":
    """Return one row a training example: id, question, answer, tokens, learnt tokens, and a note.

    Args:
        value, whole, prompt: the desk's `lengths`; several windows of one text are added up.
        limit: tokens that are kept.
    """
    import pandas

    kept = numpy.minimum(whole, limit)
    table = pandas.DataFrame(
        {
            "id": value["ids"],
            "question": value["texts"],
            "answer": value["answers"],
            "tokens": kept,
            "learnt": numpy.maximum(0, kept - numpy.maximum(prompt, 1)),
            "cut": whole > limit,
            "empty": nothing_left(whole, prompt, limit),
        }
    )
    if not table["id"].is_unique:
        table = table.groupby("id", sort=False, as_index=False).agg(
            {"question": "first", "answer": "first", "tokens": "sum", "learnt": "sum", "cut": "any", "empty": "all"}
        )
    note = numpy.where(table["cut"], "cut at the end", "")
    table["note"] = numpy.where(table["empty"], MASKED, note)
    return table.drop(columns=["cut", "empty"])


def with_words(table: "pandas.DataFrame", words: str) -> "pandas.DataFrame":
    """Return the rows whose id or texts hold the words in any case; all of them where there are no words."""
    if not words.strip():
        return table
    texts = table[[name for name in ("id", "question", "answer", "text") if name in table]]
    return table[texts.apply(lambda text: text.str.contains(words.strip(), case=False, regex=False)).any(axis=1)]


def merged(chosen: list[str], shown: list[str], ticked: set[str]) -> list[str]:
    """Return the new choice of ids: those not shown stay, of those shown the ticked ones; new ones come last, in order.

    Args:
        chosen: the choice so far.
        shown: the ids that could be ticked.
        ticked: those of them that are.
    """
    visible = set(shown)
    kept = [name for name in chosen if name not in visible or name in ticked]
    return kept + [name for name in shown if name in ticked and name not in set(chosen)]
