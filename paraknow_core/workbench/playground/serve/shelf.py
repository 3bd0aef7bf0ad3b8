"""The weights that are held: one base a model, shared by the untouched model and every run's adapter on it."""

import gc
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Model
from paraknow_core.errors import ModelError, RunError
from paraknow_core.memory import available_bytes, release
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder, find_run
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec
from paraknow_core.workbench.inbox import leave_a_core
from paraknow_core.workbench.playground.protocol import Slot
from paraknow_core.workbench.sources import Stamp, file_stamps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER = "adapter"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SPARE = 200_000_000  # bytes that stay free for the system and for the answers' own caches


@dataclass(frozen=True)
class Files:
    """A folder, and the state that its files were in when they were read."""

    folder: Path
    stamps: tuple[Stamp, ...]

    @classmethod
    def of(cls, folder: Path) -> "Files":
        return cls(folder, tuple(file_stamps(folder)))

    @property
    def replaced(self) -> bool:
        return Files.of(self.folder) != self


@dataclass
class Base:
    """One model in memory, its tokenizer, and which slots stand on it."""

    model: Any
    tokenizer: "PreTrainedTokenizerBase"
    bytes: int
    parameters: int
    files: Files
    adapters: dict[str, tuple[int, int]] = field(default_factory=dict)  # slot key -> (bytes, parameters)
    plain: set[str] = field(default_factory=set)  # keys of slots that use it without an adapter


@dataclass
class Held:
    """A loaded slot; `activate` must be entered around every forward pass, because a base serves several slots."""

    slot: Slot
    base: Base
    used: float
    adapter: Files | None = None

    @property
    def model(self) -> Any:
        return self.base.model

    @property
    def replaced(self) -> bool:
        """True where a file that this was read from is another one by now."""
        return self.base.files.replaced or (self.adapter is not None and self.adapter.replaced)

    def activate(self) -> Any:
        """Return a context in which the base computes as this slot."""
        if self.slot.key in self.base.adapters:
            self.base.model.set_adapter(self.slot.key, inference_mode=True)
            return nullcontext()
        return self.base.model.disable_adapter() if self.base.adapters else nullcontext()


class Shelf:
    """Loads, shares and frees weights, and tells what it does."""

    def __init__(self, place: Workspace, settings: Settings, tell: Callable[[Slot, dict], None]) -> None:
        """Args: tell: called with a slot and what is to be known about it."""
        self.place, self.settings, self.tell = place, settings, tell
        self.bases: dict[tuple[str, str | None, int | None], Base] = {}
        self.held: dict[str, Held] = {}
        self.replaced: set[str] = set()  # keys of slots that were dropped because their files are others now
        self._looked: dict[str, Slot] = {}  # not loaded, but somebody sees what they would take

    def look(self, slot: Slot) -> None:
        """Say what a slot would take, from the headers of its files; a loaded one says what it takes."""
        if slot.key in self.held:
            self._tell_all()
            return
        self._looked[slot.key] = slot
        size, parameters = self._needs(slot)
        base = self.bases.get(_base_of(slot))
        self.tell(slot, {"state": "free", "bytes": size, "parameters": parameters, "shared": base.bytes if base else 0})

    def load(self, slot: Slot) -> Held:
        """Put a slot's weights into memory, sharing a base that is there.

        Raises:
            ModelError, RunError: it cannot be found, read, or does not fit.
        """
        if slot.key in self.held:
            self.touch(slot.key)
            self._tell_all()
            return self.held[slot.key]
        size, parameters = self._needs(slot)
        base = self.bases.get(_base_of(slot))
        more, free = size - (base.bytes if base else 0), available_bytes() - SPARE
        if more > free:
            raise ModelError(
                f"{slot.source}: needs {more / 1e9:.1f} GB of memory and {max(0, free) / 1e9:.1f} GB are free; "
                "free another model first, or choose a smaller one"
            )
        self.tell(slot, {"state": "loading", "bytes": size, "parameters": parameters})
        leave_a_core(self.settings.threads)
        adapter = Files.of(self._adapter_folder(slot)) if slot.run else None
        base = base or self._load_base(slot)
        try:
            if adapter is not None:
                _put_adapter(base, slot.key, adapter.folder)
            else:
                base.plain.add(slot.key)
        finally:
            self._drop_unused()
        self.held[slot.key] = Held(slot, base, time.monotonic(), adapter)
        self.replaced.discard(slot.key)
        self._looked.pop(slot.key, None)
        self._tell_all()
        return self.held[slot.key]

    def free(self, slot: Slot) -> None:
        """Drop a slot; its base goes with the last slot that stands on it."""
        held = self.held.pop(slot.key, None)
        if held is not None:
            held.base.plain.discard(slot.key)
            if held.base.adapters.pop(slot.key, None):
                _take_adapter(held.base, slot.key)
            del held
            self._drop_unused()
        self._looked[slot.key] = slot
        self._tell_all()

    def take_replaced(self) -> list[Slot]:
        """Return the loaded slots whose files are others by now: they are to be freed, never answered with."""
        slots = [held.slot for held in self.held.values() if held.replaced]
        self.replaced |= {slot.key for slot in slots}
        return slots

    def touch(self, key: str) -> None:
        """Note that a slot was used."""
        if key in self.held:
            self.held[key].used = time.monotonic()

    def free_unused(self, idle_s: float) -> None:
        """Free every slot that nobody used for so long."""
        for held in [h for h in self.held.values() if time.monotonic() - h.used > idle_s]:
            self.free(held.slot)

    def _needs(self, slot: Slot) -> tuple[int, int]:
        """Return bytes and parameters of a slot, read from headers."""
        model = self._model(slot)
        parameters = model.anatomy.parameters
        size = parameters * (BYTES[model.dtype] if self.settings.dtype != "auto" else 4)
        if slot.run:
            from safetensors import SafetensorError, safe_open

            file = self._adapter_folder(slot) / "adapter_model.safetensors"
            try:
                with safe_open(file, framework="numpy") as tensors:
                    shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
            except (SafetensorError, OSError):
                raise RunError(f"run {slot.run}: its adapter cannot be read; run it again") from None
            extra = sum(math.prod(shape) for shape in shapes)
            parameters, size = parameters + extra, size + 4 * extra
        return size, parameters

    def _model(self, slot: Slot) -> Model:
        spec = ModelSpec(source=slot.source, revision=slot.revision, untrained=slot.untrained)
        return Model(spec, self.settings, self.place)

    def _adapter_folder(self, slot: Slot) -> Path:
        run: RunFolder = find_run(self.place, slot.run)
        path = run.file(ADAPTER)
        if not (path / "adapter_config.json").exists():
            raise RunError(
                f"run {run.id}: has no trained adapter ({run.status().state}); let it finish, or leave it out"
            )
        return path

    def _load_base(self, slot: Slot) -> Base:
        source = self._model(slot)
        files = Files.of(source.source.folder)  # before they are read: whatever comes after that is a change
        model, tokenizer = source.load(), source.tokenizer
        parameters = {parameter.data_ptr(): parameter for parameter in model.parameters()}.values()
        size, number = sum(p.nbytes for p in parameters), sum(p.numel() for p in parameters)
        base = self.bases[_base_of(slot)] = Base(model, tokenizer, size, number, files)
        return base

    def _drop_unused(self) -> None:
        self.bases = {key: base for key, base in self.bases.items() if base.adapters or base.plain}
        gc.collect()
        release()

    def _tell_all(self) -> None:
        """Say of every known slot what it takes; with each that comes or goes, what is shared changes."""
        for slot in self._looked.values():
            with suppress(Exception):  # its run was deleted meanwhile, or its files are damaged, which raises anything
                self.look(slot)
        for key, held in self.held.items():
            base = held.base
            extra, more = base.adapters.get(key, (0, 0))
            shared = base.bytes if len(base.adapters) + len(base.plain) > 1 else 0
            memory = {"bytes": base.bytes + extra, "shared": shared, "parameters": base.parameters + more}
            self.tell(held.slot, {"state": "loaded", "used": held.used, **memory})


def _base_of(slot: Slot) -> tuple[str, str | None, int | None]:
    return slot.source, slot.revision, slot.untrained


def _put_adapter(base: Base, key: str, folder: Path) -> None:
    from peft import PeftModel

    before = {id(p) for p in base.model.parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")  # about tied layers: see stages.export
        if base.adapters:
            base.model.load_adapter(str(folder), adapter_name=key)
        else:
            base.model = PeftModel.from_pretrained(base.model, str(folder), adapter_name=key)
    base.model.eval().requires_grad_(False)
    own = [p for p in base.model.parameters() if id(p) not in before]
    base.adapters[key] = sum(p.nbytes for p in own), sum(p.numel() for p in own)


def _take_adapter(base: Base, key: str) -> None:
    """Remove one adapter; with the last, the base is the plain model again (its weights were never changed)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")  # about the next one that is active
        # An output layer that an adapter brings whole would stay in place of the base's if only unloaded, and can only
        # be deleted while its adapter is the active one.
        base.model.set_adapter(key, inference_mode=True)
        base.model.delete_adapter(key)
        if base.adapters:  # PEFT may go on naming the one that is gone
            base.model.set_adapter(next(iter(base.adapters)), inference_mode=True)
        else:
            base.model = base.model.unload()
