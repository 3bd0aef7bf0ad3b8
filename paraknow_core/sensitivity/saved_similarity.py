"""Layer similarities that are kept in the workspace, as pages and runs read them. Needs no torch."""

from typing import Any

from paraknow_core.files.json_file import read_json
from paraknow_core.paths import Workspace, contained

VERSION = 1  # raise when the numbers would change
KINDS = ("cka", "stitch")


def saved_similarity(place: Workspace, key: str) -> dict[str, Any] | None:
    """Return a kept similarity; None if it is not there, or damaged.

    Returns:
        `key`, `teacher`, `student`, `task`, `samples`, `tokens`, `ridge`, and of every one of `KINDS` a table: a row of
        numbers for each student layer, one for each teacher layer.
    """
    content = read_json(contained(place.similarity, f"{key}.json"))
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return None
    tables = [content.get(kind) for kind in KINDS]
    return {**content, "key": key} if all(map(_is_table, tables)) else None


def _is_table(table: Any) -> bool:
    if not (isinstance(table, list) and table and all(isinstance(row, list) for row in table)):
        return False
    numbers = [number for row in table for number in row]
    return len({len(row) for row in table}) == 1 and bool(numbers) and all(isinstance(n, float | int) for n in numbers)
