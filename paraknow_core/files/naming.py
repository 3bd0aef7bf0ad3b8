"""What the source of a model or task names: a bundled one, a hub id or a path. Nothing is opened here.

Code that checks a source (`workbench.access`) and code that opens it (models, tasks, the desk) both call `named`, and
so agree. Also here: which texts look like passwords or tokens.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

BUNDLED_PREFIX, HUB_PREFIX = "bundled:", "hub:"
# Set for a run at a node that does not see the submitter's files: JSON, of each source where a copy lies there.
CARRIED_VARIABLE = "PARAKNOW_CARRIED"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_TOKEN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{16,} | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,}
    | xox[abeoprs]-[\w-]{10,} | A(?:KIA|SIA)[A-Z0-9]{16} | AIza[\w-]{30,} | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{40,}
    | r8_[A-Za-z0-9]{30,} | dop_v1_[a-f0-9]{30,} | [sr]k_(?:live|test)_[A-Za-z0-9]{16,}
    | sk-(?=[\w-]{0,99}[0-9])(?=[\w-]{0,99}[A-Z])[\w-]{20} | eyJ[\w-]{8,300}\.[\w-]{8,300}\.
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY)""",
    re.ASCII | re.VERBOSE,
)
_IN_ADDRESS = re.compile(
    r"://[^/\s]*@"  # a name and a password before the host
    r"|[?&;#](?:[\w-]*(?:token|secret|password|passwd|api[_-]?key|signature|credential)|sig|key|auth|pwd)=[^&\s]"
    r"|\bbearer\s+[\w.~+/-]{12,}",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True)
class Named:
    """What a source names.

    Attributes:
        kind: bundled, hub, or path.
        text: the source in its normal form.
        name: without its prefix.
        path: where it lies, `~` expanded and links not followed; only of a path.
        prefixed: the hub was named by `hub:`, as data sets are.
    """

    kind: Literal["bundled", "hub", "path"]
    text: str
    name: str
    path: Path | None = None
    prefixed: bool = False


def normal_source(text: str) -> str:
    """Return a source without white space around it, the form in which sources are compared."""
    return text.strip()


def named(source: str, base: Path | None = None) -> Named:
    """Tell what a source names; an existing file or folder wins over a hub id without a prefix, and a copy over both.

    Args:
        source: `bundled:NAME`, `hub:OWNER/NAME`, OWNER/NAME, or a path.
        base: where a relative path begins; None: where this process works.
    """
    text = normal_source(source)
    if text.startswith(BUNDLED_PREFIX):
        return Named("bundled", text, text.removeprefix(BUNDLED_PREFIX))
    if text.startswith(HUB_PREFIX):
        return Named("hub", text, text.removeprefix(HUB_PREFIX), prefixed=True)
    if text in (copies := json.loads(os.environ.get(CARRIED_VARIABLE) or "{}")):
        return Named("path", text, text, Path(copies[text]))
    path = expanded(text)
    path = base / path if base is not None else path
    if _HUB_ID.fullmatch(text) and not is_there(path):
        return Named("hub", text, text)
    return Named("path", text, text, path)


def expanded(text: str) -> Path:
    """Return a path with `~` expanded; unchanged where there is no such home."""
    path = Path(text)
    try:
        return path.expanduser()
    except (RuntimeError, ValueError):  # nobody's home, or a name that cannot be one
        return path


def is_hub_id(text: str) -> bool:
    """Tell whether a text has the form OWNER/NAME."""
    return _HUB_ID.fullmatch(text) is not None


def is_there(path: Path) -> bool:
    """Tell whether something has this name: also a link that leads nowhere, and what may not be looked at.

    What cannot be a path (too long, with a zero byte) counts as there: it is no hub id.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        pass
    return True


def holds_secret(text: str) -> bool:
    """Tell whether a text holds what looks like a password or a token; messages must then not repeat the text."""
    return _TOKEN.search(text) is not None or _IN_ADDRESS.search(text) is not None


def secret_in(value: Any, place: str = "") -> str | None:
    """Return where plain data holds a password or a token, as dotted keys (empty: at its top); None if nowhere."""
    if isinstance(value, str):
        return place if holds_secret(value) else None
    if isinstance(value, dict):
        if any(isinstance(key, str) and holds_secret(key) for key in value):
            return place
        parts = [(f"{place}.{key}" if place else str(key), part) for key, part in value.items()]
    else:
        parts = [(place, part) for part in value] if isinstance(value, list | tuple | set) else []
    places = (secret_in(part, inner) for inner, part in parts)
    return next((secret for secret in places if secret is not None), None)
