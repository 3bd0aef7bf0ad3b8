"""What a model is made of, read from its config and the headers of its weights; needs no torch, no transformers."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from paraknow_core.errors import ModelError
from paraknow_core.models.config import Dimensions, declared_ends, expert_key, read_dimensions
from paraknow_core.models.headers import TensorHeader
from paraknow_core.models.modules import LogicalModule, logical_modules, other_shapes, stored_shapes
from paraknow_core.models.names import check_names, held_parameters, is_old_buffer, is_quantisers, wrapper_sentence
from paraknow_core.models.source import ModelSource
from paraknow_core.models.tokenizer import TokenizerIdentity, tokenizer_identity

_QUANTISED_KEYS = ("quantization_config", "compression_config")
TORCH_DTYPE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class OtherParameter:
    """A norm, bias or position table: never transferred."""

    name: str
    shape: tuple[int, ...]
    layer: int | None


@dataclass(frozen=True)
class Anatomy:
    """A model's shape and parts. `bytes` and `dtype` are those on disk; `parameters` counts a tied weight once.

    `notes` are sentences about leftovers in the folder that are not followed.
    """

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
    notes: tuple[str, ...] = ()

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
    declared_ends(source)  # says what is wrong with generation_config.json
    headers = source.headers()
    _refuse_foreign(config, size, headers, label)
    if size.num_hidden_layers > len(headers):  # no layer is without a tensor; nor is time spent on such a number
        raise ModelError(
            f"{label}: config.json says {size.num_hidden_layers} layers, the weights hold {len(headers)} tensors; "
            "they must be of the same model"
        )
    tensors = held_parameters(headers, size, label)
    if expert_key(config):
        example = next((name for name in tensors if "expert" in name), "no expert tensor was found")
        raise ModelError(
            f"{label}: is a mixture of experts ({expert_key(config)}; {example}), which is not supported; use a dense "
            "model"
        )
    modules = logical_modules(size)
    layers = {name: _layer_of(name, size, label) for name in tensors}
    of_modules = stored_shapes(modules)
    check_names(of_modules | other_shapes(size, modules), tensors, size, label)
    other = tuple(
        OtherParameter(name, header.shape, layers[name]) for name, header in tensors.items() if name not in of_modules
    )
    held = [tensors[name] for name in dict.fromkeys([m.parameter for m in modules] + [o.name for o in other])]
    numbers = {f.name: getattr(size, f.name) for f in dataclasses.fields(size) if f.name in Anatomy.__annotations__}
    dtype = _dtype([tensors[m.parameter] for m in modules])
    return Anatomy(
        **numbers | {"family": size.family.model_type},
        label=label,
        dtype=dtype,
        parameters=sum(header.parameters for header in held),
        bytes=sum(header.bytes for header in held),
        norm=size.family.norm,
        positions=size.family.positions,
        modules=modules,
        other=other,
        tokenizer=tokenizer_identity(source) if tokenizer else None,
        notes=_notes(source, config, dtype),
    )


def _refuse_foreign(config: dict, size: Dimensions, headers: dict[str, TensorHeader], label: str) -> None:
    """Refuse weights that a quantiser packed, and names that another tool changed: the weights tell, not the config."""
    weights = [header for name, header in headers.items() if not is_old_buffer(name)]
    packed = next((h for h in weights if h.dtype not in TORCH_DTYPE or is_quantisers(h.name)), None)
    if packed:
        keys = "".join(f"{key}, method {_method(config, key)}; " for key in _QUANTISED_KEYS if config.get(key))
        raise ModelError(
            f"{label}: weights are quantised ({keys}in {packed.file}, {packed.name} is stored as {packed.dtype}); only "
            f"{', '.join(TORCH_DTYPE)} are read; use the unquantised checkpoint"
        )
    sentence = wrapper_sentence((header.name for header in weights), f"{size.family.embed}.weight")
    if sentence:
        raise ModelError(f"{label}: in {weights[0].file}, {sentence}")


def _method(config: dict, key: str) -> str:
    method = config[key].get("quant_method", "unknown") if isinstance(config[key], dict) else "unknown"
    return str(method)[:40]


def _notes(source: ModelSource, config: dict, dtype: str) -> tuple[str, ...]:
    """Say what in the folder is not followed, because the weights tell otherwise."""
    notes = [
        f"{source.label}: config.json has {key} (method {_method(config, key)}), but the weights are plain {dtype}: "
        "they are read as they are; remove that key, or transformers will quantise them when it loads the model"
        for key in _QUANTISED_KEYS
        if config.get(key)
    ]
    if (source.folder / "adapter_config.json").is_file():
        notes.append(
            f"{source.label}: adapter_config.json lies beside the model's weights, which are read as they are, without "
            "an adapter; remove that file, or transformers will put the adapter on them"
        )
    return tuple(notes)


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


def _dtype(headers: list[TensorHeader]) -> str:
    """Return the number format most of the weights have, by bytes."""
    amounts: Counter = Counter()
    for header in headers:
        amounts[header.dtype] += header.bytes
    return TORCH_DTYPE[amounts.most_common(1)[0][0]]
