"""Model folders that somebody made to break whoever reads them: a bundled model with one file changed."""

import json
import shutil
from pathlib import Path
from typing import Any

from paraknow_core.paths import PROJECT_ROOT

MODEL = PROJECT_ROOT / "paraknow_core" / "demo" / "models" / "kin"


def folder_with(folder: Path, tokenizer: dict[str, Any] | None = None, chat_template: str | None = None) -> Path:
    """Copy the model, keys of its tokenizer.json replaced, or with a chat template of its own; return the folder."""
    shutil.copytree(MODEL, folder)
    if tokenizer is not None:
        file = folder / "tokenizer.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **tokenizer}))
    if chat_template is not None:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": chat_template}))
    return folder
