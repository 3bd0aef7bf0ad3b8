"""What transformers is told of a model, and what it may say: never what config.json decides on its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError
from paraknow_core.models.config import read_dimensions
from paraknow_core.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_DROPOUTS = (  # in the configs of all families
    "dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "layerdrop",
)  # fmt: skip
# What a config.json may say about how a model was run or saved, and what is decided here instead: never honoured.
_NOT_FOLLOWED = (
    "_attn_implementation",
    "attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "experts_implementation",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "dtype",
    "torch_dtype",
    "use_cache",
    "quantization_config",
    "compression_config",
    "auto_map",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "use_return_dict",
    "torchscript",
    "use_bfloat16",
    "gradient_checkpointing",
    "pretraining_tp",
    "transformers_version",
    "device_map",
    "problem_type",
    "num_labels",
    "id2label",
    "label2id",
)


def library_config(source: ModelSource) -> "PreTrainedConfig":
    """Return transformers' form of config.json, without what is decided here.

    Raises:
        ModelError: it cannot be right, or transformers does not take it.
    """
    from transformers import AutoConfig

    config = source.config()
    read_dimensions(config, source.label)  # names what it knows to be wrong, with its key
    with quiet_transformers():
        try:
            return AutoConfig.for_model(**{key: value for key, value in config.items() if key not in _NOT_FOLLOWED})
        except Exception as error:  # config checks raise many kinds
            raise ModelError(
                f"{source.label}: config.json has a value that transformers refuses ({one_line_reason(error)}); "
                "correct it, or get config.json again"
            ) from None


def one_line_reason(error: BaseException) -> str:
    """Return what went wrong in one line: transformers' config checks name the check first and the reason below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 or not lines[0].endswith(":") else lines[1].partition("Error: ")[2] or lines[1]
    return text if len(text) <= 160 else text[:157] + "..."


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and load report; what matters of them is raised as an error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def has_dropout(config: "PreTrainedConfig") -> bool:
    """Tell whether a model of this config drops numbers at random while it is trained, in a layer or by a function."""
    return any(getattr(config.get_text_config(), name, 0) for name in _DROPOUTS)
