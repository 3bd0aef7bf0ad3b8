"""YAML (and JSON) written by people, read as plain data: errors become one sentence, and nothing in a file is run."""

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from paraknow_core.errors import SpecError
from paraknow_core.files.naming import holds_secret

MOST_VALUES, MOST_LEVELS = 100_000, 50  # far beyond any spec
MOST_BYTES = 1_000_000  # of a file
NESTED = "is nested far beyond a spec; give the keys of `spec show`"
_DEPTH = re.compile(r"nest|depth|recurs", re.IGNORECASE)  # how libyaml and PyYAML, by version, refuse deep nesting
# libyaml's safe loader where the wheel has it: ten times faster, which lists of hundreds of runs need.
_SafeLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_SafeLoader):
    """YAML 1.1 safe loader that refuses a key given twice: YAML would drop its first value silently."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:  # `!!bool x`, a month 13, a number of thousands of digits: anything is raised
            problem = "the value is not what its tag or its form says (such as !!bool, !!int or a date)"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _mapping_without_duplicates(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return _SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def load_yaml(text: str, where: str) -> Any:
    """Return what a YAML (or JSON) text holds as plain data; nothing in it is ever run.

    Raises:
        SpecError: one sentence, whatever is wrong with the text.
    """
    if len(text) > MOST_BYTES:
        raise SpecError(f"{where}: larger than 1 MB; a spec is a few kilobytes, give its YAML file")
    _refuse_depth(text, where)
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "")
        if isinstance(error, RecursionError) or _DEPTH.search(problem):
            raise SpecError(f"{where}: {NESTED}") from None
        if holds_secret(problem) or not problem:
            problem = "its text cannot be understood"
        problem = " ".join(problem.split())[:200]
        raise SpecError(f"{where}: not valid YAML{place}: {problem}; correct it and try again") from None


def read_text(path: Path) -> str:
    """Read a spec or settings file (at most 1 MB of UTF-8); a pipe or a device is never waited for.

    Raises:
        SpecError: the file cannot be read.
    """
    try:
        kind = os.stat(path)  # noqa: PTH116 - of thousands of runs
        if not stat.S_ISREG(kind.st_mode):
            reason = "is a folder" if stat.S_ISDIR(kind.st_mode) else "is no plain file"
            raise SpecError(f"{path}: cannot be read ({reason}); give the path of a file in YAML")
        if kind.st_size > MOST_BYTES:
            raise SpecError(f"{path.name}: larger than 1 MB; a spec is a few kilobytes, give its YAML file")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - of thousands of runs
            return file.read().decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SpecError(f"{path}: cannot be read ({reason}); give the path of a file in YAML") from None


def refuse_bombs(data: Any, where: str) -> None:
    """Refuse data that becomes huge when its aliases are written out; in YAML an alias takes a few bytes."""
    waiting, seen = [(data, 0)], 0
    while waiting:
        node, level = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or level > MOST_LEVELS:
            raise SpecError(f"{where}: is nested or repeated far beyond a spec; give the keys of `spec show`")
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple | set) else ()
        waiting.extend((child, level + 1) for child in children)


def _refuse_depth(text: str, where: str) -> None:
    """Refuse a text that nests thousands of levels, before it is loaded: libyaml would end the whole process."""
    if len(text) < 20_000 and sum(map(text.count, "[{-?")) <= MOST_LEVELS:
        return  # too few signs to nest so far
    level = 0
    try:
        for event in yaml.parse(text, Loader=_SafeLoader):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise SpecError(f"{where}: {NESTED}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        limit = getattr(error, "problem", None) or ""  # libyaml has one of its own
        if isinstance(error, RecursionError) or _DEPTH.search(limit):
            raise SpecError(f"{where}: {NESTED}") from None
        return  # the loader names the place
