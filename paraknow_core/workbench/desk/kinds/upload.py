"""An uploaded file, read strictly: `{"path", "columns"}` -> what was read from which field, or why it is refused.

Columns, where given, say which field is which part of the prompt: then the file is written anew beside it, as
`<name>.mapped.jsonl`. A refusal is an answer, not a failure: the page removes the file.
"""

from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.tasks.uploads import columns_of, guess_of, load_upload, mapped, write_chat


def answer(place: Workspace, _settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one file; see the module."""
    path, columns = Path(request["path"]).resolve(), request["columns"]
    if path.parent != place.uploads.resolve() or not path.is_file():
        return _refused("the upload is not there any more; upload the file again")
    try:
        if columns:
            path.with_suffix(".mapped.jsonl").unlink(missing_ok=True)
            data = mapped(path, columns)
            write_chat(data, path.with_suffix(".mapped.jsonl"))
            path = path.with_suffix(".mapped.jsonl")
            found = load_upload(path).format
        else:
            data = load_upload(path)
            found = data.format
    except DataError as error:
        path.with_suffix(".mapped.jsonl").unlink(missing_ok=True)
        offered = columns_of(path) if path.suffix != ".txt" else {}
        return _refused(str(error)) | {"columns": offered, "guess": guess_of(offered)}
    return {
        "refused": "",
        "columns": {},
        "guess": {},
        "format": found,
        "examples": len(data.parts[0]),
        "file": path.name,
        "fields": dict(data.fields),
        "notes": list(data.notes),
    }


def _refused(why: str) -> dict[str, Any]:
    return {
        "refused": why,
        "columns": {},
        "guess": {},
        "format": "",
        "examples": 0,
        "file": "",
        "fields": {},
        "notes": [],
    }
