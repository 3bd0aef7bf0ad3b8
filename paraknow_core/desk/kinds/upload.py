"""An uploaded file, read strictly: `{"path", "columns"}` -> its format and number of examples, or why it is refused.

Columns, where given, say which are question, answer and choices: then the file is written anew beside it, as
`<name>.mapped.jsonl`. A refusal is an answer, not a failure: the page removes the file.
"""

from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.tasks.uploads import columns_of, read_upload, rewrite


def answer(place: Workspace, _settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one file; see the module."""
    path, columns = Path(request["path"]).resolve(), request["columns"]
    if path.parent != place.uploads.resolve() or not path.is_file():
        return _refused("the upload is not there any more; upload the file again")
    try:
        if columns:
            path.with_suffix(".mapped.jsonl").unlink(missing_ok=True)
            rewrite(path, columns, path.with_suffix(".mapped.jsonl"))
            path = path.with_suffix(".mapped.jsonl")
        found, number = read_upload(path)
    except DataError as error:
        path.with_suffix(".mapped.jsonl").unlink(missing_ok=True)
        return _refused(str(error)) | {"columns": columns_of(path) if path.suffix != ".txt" else {}}
    return {"refused": "", "columns": {}, "format": found, "examples": number, "file": path.name}


def _refused(why: str) -> dict[str, Any]:
    return {"refused": why, "columns": {}, "format": "", "examples": 0, "file": ""}
