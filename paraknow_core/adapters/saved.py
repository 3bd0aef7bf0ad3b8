"""A run's adapters, read back: the initial one for the student, and what training changed in each module."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paraknow_core.adapters.inject import CONFIG, WEIGHTS, factor_names, hosts, row_index
from paraknow_core.adapters.update import Update
from paraknow_core.errors import ModelError, RunError
from paraknow_core.files.disk import file_digest, whole_tensors
from paraknow_core.files.json_file import read_object
from paraknow_core.models.anatomy import Anatomy, LogicalModule
from paraknow_core.models.families import FAMILIES

RECORD, FOLDER = "extraction.json", "init_adapter"  # of the initial adapter, as `methods.start` leaves it


def is_sound(folder: Path) -> bool:
    """Tell whether extraction.json and init_adapter/ of a run folder are there and unchanged."""
    record = read_object(folder / RECORD)
    if not {"subtracted", "layer_mapping"} <= record.keys():
        return False
    if record.get("whole"):  # starts at zero
        return True
    weights, digest = folder / FOLDER / WEIGHTS, record.get("digest")
    return whole_tensors(weights) and digest in (None, file_digest(weights))  # an earlier version noted none


def saved_updates(folder: Path, modules: list[LogicalModule], rank: int, subtracted: set[str]) -> Iterator[Update]:
    """Read the initial factors back, bit for bit, module by module.

    Args:
        folder: init_adapter/ of a run.
        modules: the student's modules that have an adapter.
        rank: of each.
        subtracted: names of those whose product was taken off the student's weight.
    """
    with safe_open(folder / WEIGHTS, framework="pt") as tensors:
        for host, parts in hosts(modules).items():
            names = factor_names(host, embedding=parts[0].role == "embed")
            a, b = (tensors.get_tensor(name) for name in names)
            for number, module in enumerate(parts):
                part = slice(number * rank, (number + 1) * rank)
                yield Update(module, a[part], b[row_index(module, b.shape[0]), part], module.name in subtracted, {})


@dataclass(frozen=True)
class Change:
    """What a run did to one module; every pair is (B (out, k), A (k, in)), the scaling folded into B.

    Attributes:
        module: the student's.
        total: B @ A is the change of the untouched student's weight (an embedding's is the transpose).
        trained: B @ A is what fine-tuning alone changed; differs from `total` where the injection changed the student.
        first, last: the adapter's own factors before and after fine-tuning; where whole weights were trained, of rank 0
            before.
    """

    module: LogicalModule
    total: tuple[Tensor, Tensor]
    trained: tuple[Tensor, Tensor]
    first: tuple[Tensor, Tensor]
    last: tuple[Tensor, Tensor]


def saved_changes(folder: Path, anatomy: Anatomy) -> Iterator[Change]:
    """Read adapter/ and init_adapter/ of a run folder, module by module.

    Args:
        folder: the run's.
        anatomy: the student's.

    Raises:
        RunError: the run has no trained adapter. ModelError: it does not fit the student.
    """
    record = read_object(folder / RECORD)
    subtracted, final = bool(record.get("subtracted")), _Adapter(folder / "adapter")
    start = None if record.get("whole") else _Adapter(folder / FOLDER)
    for host, parts in hosts(m for m in anatomy.modules if final.holds(m.host)).items():
        b, a = final.factors(host, parts)
        b0, a0 = start.factors(host, parts) if start else (b[:, :0], a[:0])
        rank = a0.shape[0]
        if subtracted:  # exported as [B1, -B0] and [A1; A0], see export.combined
            total = trained = (b, a)
            last = (b[:, :rank], a[:rank])
        else:
            total, last = (b, a), (b, a)
            trained = (torch.cat([b, -b0], dim=1), torch.cat([a, a0]))
        for number, module in enumerate(parts):
            rows = row_index(module, b.shape[0])
            part = slice(number * (rank // len(parts)), (number + 1) * (rank // len(parts)))
            yield Change(
                module,
                (total[0][rows], total[1]),
                (trained[0][rows], trained[1]),
                (b0[rows][:, part], a0[part]),
                (last[0][rows], last[1]),
            )


def trained_factors(folder: Path, anatomy: Anatomy, *, subtracted: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the factors of a run as they are after training: (B (out, R), scaling folded in, A (R, in)) by host.

    Args:
        folder: the run's.
        anatomy: the student's.
        subtracted: whether the exported adapter holds the initial factors too, behind the trained ones.

    Raises:
        RunError: the run has no trained adapter, or it is not of the form that runs write.
    """
    final = _Adapter(folder / "adapter")
    final.require_plain()
    own_hosts = {host: parts for host, parts in hosts(anatomy.modules).items() if final.holds(host)}
    factors = {}
    for host, parts in own_hosts.items():
        b, a = final.factors(host, parts)
        rank = a.shape[0] // 2 if subtracted else a.shape[0]
        factors[host] = (b[:, :rank], a[:rank])
    final.require_known(own_hosts, anatomy)
    return factors


class _Adapter:
    """One adapter folder in PEFT format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_object(folder / CONFIG)
        if not self.config or not (folder / WEIGHTS).exists():
            raise RunError(f"run {folder.parent.name}: has no {folder.name}/; only a run that was trained has both")
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as tensors:
                # What else is there is an output layer that shares the embedding's matrix, whole.
                names = [name for name in tensors.keys() if ".lora_" in name]  # noqa: SIM118
                self.tensors = {name: tensors.get_tensor(name).float() for name in names}
        except (SafetensorError, OSError):
            raise RunError(f"run {folder.parent.name}: {folder.name}/{WEIGHTS} is damaged; run it again") from None

    def holds(self, host: str) -> bool:
        return any(factor_names(host, embedding=embedding)[0] in self.tensors for embedding in (False, True))

    def require_plain(self) -> None:
        """Refuse what PEFT would compute in another way than scaling * B @ A.

        Raises:
            RunError: names the setting.
        """
        plain = {"use_rslora": False, "use_dora": False, "lora_bias": False, "bias": "none", "peft_type": "LORA"}
        odd = [key for key, value in plain.items() if (self.config.get(key) or value) != value]
        if odd:
            raise RunError(f"run {self.folder.parent.name}: {CONFIG} was changed ({odd[0]}); run it again")

    def require_known(self, own_hosts: Collection[str], anatomy: Anatomy) -> None:
        """Refuse factors of modules that the student does not have.

        Raises:
            RunError: names the first.
        """
        changed = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in self.tensors}
        # Adapters of before have factors of a tied output layer too: the embedding's, transposed.
        tied = {FAMILIES[anatomy.family].head} if anatomy.tied else set()
        odd = sorted(changed - set(own_hosts) - tied)
        if odd:
            raise RunError(
                f"run {self.folder.parent.name}: the adapter changes {odd[0]}, which the student does not have; "
                "the student's folder was replaced since the run"
            )

    def factors(self, host: str, parts: list[LogicalModule]) -> tuple[Tensor, Tensor]:
        """Return (B, A) of a host, the scaling folded into B.

        Raises:
            ModelError: there are none, or they do not fit the student's modules in it.
        """
        rank = (self.config.get("rank_pattern") or {}).get(host, self.config["r"])
        alpha = (self.config.get("alpha_pattern") or {}).get(host, self.config["lora_alpha"])
        for embedding in (False, True):
            a, b = factor_names(host, embedding=embedding)
            if a in self.tensors:
                _require_fit(host, parts, self.tensors[b], self.tensors[a])
                return alpha / rank * self.tensors[b], self.tensors[a]
        raise ModelError(f"{self.folder.name}: has no factors for {host}; the run's folder was changed, run it again")


def _require_fit(host: str, modules: list[LogicalModule], b: Tensor, a: Tensor) -> None:
    for module in modules:
        rows, cols = module.shape if module.role != "embed" else module.shape[::-1]
        if a.shape[1] != cols or b.shape[0] < rows:
            raise ModelError(
                f"{host}: the adapter changes a weight of {b.shape[0]} x {a.shape[1]}, the student's {module.name} is "
                f"{rows} x {cols}; the student's folder was replaced since the run"
            )
