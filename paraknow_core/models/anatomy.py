"""What a model is made of, read from its config and the headers of its weights; needs no torch, no transformers."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from paraknow_core.errors import ModelError
from paraknow_core.models.dimensions import Dimensions, expert_key, read_dimensions
from paraknow_core.models.families import IGNORED_SUFFIXES, Family
from paraknow_core.models.headers import TensorHeader
from paraknow_core.models.modules import LogicalModule, logical_modules, stored_shapes
from paraknow_core.models.source import ModelSource
from paraknow_core.models.vocabulary import TokenizerIdentity, tokenizer_identity

TORCH_DTYPE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class OtherParameter:
    """A norm, bias or position table: never transferred."""

    name: str
    shape: tuple[int, ...]
    layer: int | None


@dataclass(frozen=True)
class Anatomy:
    """A model's shape and parts. `bytes` and `dtype` are those on disk; `parameters` counts a tied weight once."""

    label: str
    family: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tied: bool
    dtype: str
    parameters: int
    bytes: int
    activation: str
    norm: str
    positions: str
    modules: tuple[LogicalModule, ...]
    other: tuple[OtherParameter, ...]
    tokenizer: TokenizerIdentity | None

    @cached_property
    def _by_name(self) -> dict[str, LogicalModule]:
        return {module.name: module for module in self.modules}

    @cached_property
    def layer_of(self) -> dict[str, int | None]:
        """Parameter name -> its layer, None outside the layers."""
        return {m.parameter: m.layer for m in self.modules} | {other.name: other.layer for other in self.other}

    def module(self, name: str) -> LogicalModule:
        """Return the logical module of that name.

        Raises:
            ModelError: there is none.
        """
        if name not in self._by_name:
            raise ModelError(f"{self.label}: has no module {name}; see `inspect` for its modules")
        return self._by_name[name]

    def layer(self, index: int) -> tuple[LogicalModule, ...]:
        """Return the logical modules of one layer, in the order of the roles."""
        return tuple(module for module in self.modules if module.layer == index)

    def find(self, role: str, layer: int | None) -> LogicalModule | None:
        """Return the module with that role in that layer (None: outside the layers), or None."""
        return next((m for m in self.modules if m.role == role and m.layer == layer), None)

    def to_dict(self) -> dict:
        """Return everything as plain data for JSON."""
        return dataclasses.asdict(self)


def read_anatomy(source: ModelSource, *, tokenizer: bool = True) -> Anatomy:
    """Read what a model is made of.

    Args:
        source: a resolved model.
        tokenizer: also identify the tokenizer; False where only the weights matter.

    Returns:
        Its anatomy; module names are those in memory, also where the names on disk differ.

    Raises:
        ModelError: not supported, or config and weights disagree; names the module or the config's key.

    Note:
        Time and memory do not grow with the weights: a config, headers and the tokenizer's vocabulary are read.
    """
    config, label = source.config(), source.label
    size = read_dimensions(config, label)
    tensors = _held(source, size)
    _refuse_experts(config, tensors, label)
    modules = logical_modules(size)
    _check_shapes(modules, size, tensors, label)
    other = _other_parameters({m.parameter for m in modules}, size, tensors, label)
    held = [tensors[name] for name in dict.fromkeys([m.parameter for m in modules] + [o.name for o in other])]
    numbers = {f.name: getattr(size, f.name) for f in dataclasses.fields(size) if f.name in Anatomy.__annotations__}
    return Anatomy(
        **numbers | {"family": size.family.model_type},
        label=label,
        dtype=_dtype([tensors[m.parameter] for m in modules], label),
        parameters=sum(header.parameters for header in held),
        bytes=sum(header.bytes for header in held),
        norm=size.family.norm,
        positions=size.family.positions,
        modules=modules,
        other=other,
        tokenizer=tokenizer_identity(source) if tokenizer else None,
    )


def parameter_headers(source: ModelSource) -> dict[str, TensorHeader]:
    """Return where each parameter of the loaded model is on disk, by its name in memory; a tied weight once.

    Raises:
        ModelError: not supported, or a file is damaged.
    """
    return _held(source, read_dimensions(source.config(), source.label))


def _held(source: ModelSource, size: Dimensions) -> dict[str, TensorHeader]:
    tensors = memory_names(source.headers(), size.family, source.label)
    if size.tied:
        _rescue_tied_embedding(tensors, size.family)
    return tensors


def memory_names(headers: dict[str, TensorHeader], family: Family, label: str) -> dict[str, TensorHeader]:
    """Map the names a loaded model has to the headers on disk, whose names may lack the base model's prefix.

    Raises:
        ModelError: two tensors on disk stand for the same parameter.
    """
    named: dict[str, TensorHeader] = {}
    for disk_name, header in headers.items():
        if disk_name.endswith(IGNORED_SUFFIXES):
            continue
        name = disk_name
        for old, new in family.renames.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        if not name.startswith((f"{family.prefix}.", f"{family.head}.")):
            name = f"{family.prefix}.{name}"
        if name in named:
            raise ModelError(f"{label}: {disk_name} and {named[name].name} are both {name}; save the model again")
        named[name] = header
    return named


def _refuse_experts(config: dict, tensors: dict[str, TensorHeader], label: str) -> None:
    key = expert_key(config)
    if key:
        example = next((name for name in tensors if "expert" in name), "no expert tensor was found")
        raise ModelError(
            f"{label}: is a mixture of experts ({key}; {example}), which is not supported; use a dense model"
        )


def _rescue_tied_embedding(tensors: dict[str, TensorHeader], family: Family) -> None:
    """Drop the second listing of a tied weight; a checkpoint may also list only the head."""
    head = tensors.pop(f"{family.head}.weight", None)
    if head is not None:
        tensors.setdefault(f"{family.embed}.weight", head)


def _check_shapes(
    modules: tuple[LogicalModule, ...], size: Dimensions, tensors: dict[str, TensorHeader], label: str
) -> None:
    for parameter, expected in stored_shapes(modules).items():
        if parameter not in tensors:
            raise ModelError(
                f"{label}: {parameter} is missing from the weights; a {size.family.model_type} with "
                f"{size.num_hidden_layers} layers has it; check config.json or get the weights again"
            )
        if tensors[parameter].shape != expected:
            raise ModelError(
                f"{label}: {parameter} has shape {tensors[parameter].shape}, config.json says {expected}; "
                "they must be of the same model"
            )


def _other_parameters(
    known: set[str], size: Dimensions, tensors: dict[str, TensorHeader], label: str
) -> tuple[OtherParameter, ...]:
    """Collect norms, biases and tables; refuse any matrix that is none of the known modules, by name."""
    tables = {f"{path}.weight" for path in size.family.tables}
    found = []
    for name, header in tensors.items():
        layer = _layer_of(name, size, label)
        if name in known:
            continue
        if len(header.shape) != 1 and (name not in tables or layer is not None):
            kind = "an expert weight" if "expert" in name or len(header.shape) == 3 else "an unknown weight"
            raise ModelError(
                f"{label}: {name} of shape {header.shape} is {kind} for a {size.family.model_type} model; "
                f"only {size.family.architectures[0]} as in transformers is supported"
            )
        found.append(OtherParameter(name, header.shape, layer))
    return tuple(found)


def _layer_of(name: str, size: Dimensions, label: str) -> int | None:
    prefix = f"{size.family.layers}."
    if not name.startswith(prefix):
        return None
    index = name.removeprefix(prefix).split(".")[0]
    if not (index.isascii() and index.isdigit() and len(index) < 10 and int(index) < size.num_hidden_layers):
        raise ModelError(
            f"{label}: {name} is outside the {size.num_hidden_layers} layers of config.json; "
            "they must be of the same model"
        )
    return int(index)


def _dtype(headers: list[TensorHeader], label: str) -> str:
    """Return the number format most of the weights have, by bytes."""
    amounts: Counter = Counter()
    for header in headers:
        if header.dtype not in TORCH_DTYPE:
            raise ModelError(
                f"{label}: {header.name} is stored as {header.dtype}; only {', '.join(TORCH_DTYPE)} are read; "
                "use the unquantised checkpoint"
            )
        amounts[header.dtype] += header.bytes
    return TORCH_DTYPE[amounts.most_common(1)[0][0]]
