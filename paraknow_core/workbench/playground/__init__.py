"""The playground: one prompt to several models at once, in a process of its own that holds their weights.

Folder `playground/` of the workspace is the protocol:
    commands/<time>-<id>.json      what a page wants: load, free or look at a model; the process removes it when done
    models/<key>.json              what the process says about a model: its state and the memory it takes
    process.json                   the memory of the process as a whole
    generations/<id>/              one prompt: request.json, lines.jsonl (append-only, one line a token), stop

`protocol` is what pages use (no torch); `serve` is the process.
"""

from paraknow_core.workbench.playground.protocol import (  # noqa: F401 - what pages use
    Column,
    Generation,
    Holding,
    Slot,
    ask,
    begin,
    generation,
    holding,
    process_memory,
    service,
)
