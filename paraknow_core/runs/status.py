"""What a run is doing: the states, and the record that `status.json` holds. `lifecycle.py` says what leads where."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from paraknow_core.files import shapes

State = Literal["queued", "running", "stopping", "stopped", "done", "failed", "lost"]
STATES: tuple[str, ...] = get_args(State)
ACTIVE, ENDED = STATES[:3], STATES[3:]
_TOO_LARGE = 1e13  # far beyond any time in seconds and any count


@dataclass(frozen=True)
class Status:
    """What a run is doing. Times are seconds since the epoch; `state` may be `lost`, which only readers infer."""

    state: str = "queued"
    stage: str = ""
    done: float = 0
    total: float = 0
    message: str = ""
    heartbeat: float = 0
    started: float = 0
    ended: float = 0
    host: str = ""
    pid: int = 0
    process_started: float = 0
    boot: str = ""
    attempt: int = 0

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def fraction(self) -> float:
        """Progress within the current stage, 0 to 1."""
        return max(0.0, min(1.0, self.done / self.total)) if self.total > 0 else 0.0

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Status":
        """Take the fields that are valid; a file edited by hand must not break a list of runs."""
        valid = {}
        for name, kind in _kinds():
            value = data.get(name)
            if kind.holds(value) and (isinstance(value, str) or abs(value) < _TOO_LARGE):
                valid[name] = value
        return cls(**valid)


@cache
def _kinds() -> list[tuple[str, shapes.Kind]]:
    """Return the fields of a status, and what each holds."""
    kinds = {str: shapes.TEXT} | dict.fromkeys((int, float), shapes.NUMBER)
    fields = [(name, kinds[type(field.default)]) for name, field in Status.__dataclass_fields__.items()]
    return [(name, shapes.WHOLE if name in ("pid", "attempt") else kind) for name, kind in fields]
