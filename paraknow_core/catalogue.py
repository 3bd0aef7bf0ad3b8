"""Everything that a spec asks for by name, one row each: methods, structures, layer mappings, modes, splits, scorers.

Whoever lists, describes, draws or refuses a name reads it here: the spec's choices, the command line, the pages, which
settings a run reads. To add a method, write its row in `METHODS` and the class that the row's `code` names; to add a
structure, a layer-mapping strategy or a scorer, its row and its function. Nothing else knows the names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Literal, TypeVar

# Of a structure, "sensitivity" is that of the module which is cut, "reductions" the sums of rows and columns of all.
Need = Literal["teacher", "sensitivity", "reductions", "activations", "gradients", "tuned teacher"]


@dataclass(frozen=True)
class Row:
    """What can be said about a name without computing anything.

    Attributes:
        name: as spec files write it.
        label: as people read it.
        text: one sentence, or part of one, that says what it does.
        code: `module:name`, below `paraknow_core`, of the class or function that does it; empty where it is only a
            branch in the code of something else.
        needs: what has to be there before it can begin.
        reads: keys of the spec, or whole parts of it, that have an effect only where a row that names them is chosen:
            `extraction.seed` matters to what is drawn at random, and to nothing else.
        ignores: keys that every other row reads, and this one does not.
        control_of: the name in the same table of which it is a control.
        source: the paper that it is from; empty where it is our own.
        offered: whether a spec may ask for it by name; False where only another row uses it.
    """

    name: str
    label: str
    text: str
    code: str = ""
    needs: tuple[Need, ...] = ()
    reads: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    control_of: str = ""
    source: str = ""
    offered: bool = True


@dataclass(frozen=True, kw_only=True)
class Line(Row):
    """A row that is a line of comparisons: it keeps its colours and pattern on every screen.

    Attributes:
        colour, dark_colour: on light and on dark pages. No two methods share one.
        pattern: of bars, as Plotly has them (`/`, `\\`, `x`, `-`, `|`, `+`, `.`, or plain). No two lines, arms and
            untrained models included, share both colour and pattern.
    """

    colour: str
    dark_colour: str
    pattern: str = ""

    def shade(self, dark: bool) -> str:
        return self.dark_colour if dark else self.colour


@dataclass(frozen=True, kw_only=True)
class Method(Line):
    """A way to start the student's adapter.

    Attributes:
        structure: of its blocks, where it has one of its own, whatever the spec's structure is.
        standard: whether it belongs to the comparison that is made where nobody chooses.
        keeps_student: whether the student computes at step 0 what it computed before.
        whole: whether it trains the weights of the modules themselves, in place of thin factors.
        budget_note: where it does not train as many parameters as default LoRA of the same rank: how many, in words.
        lower_rate: how much lower than default LoRA's its best learning rate is expected: there its grid is centred.
            Starts that are not zero want 2 to 18 times less, as the curvature at step 0 grows: "Learning Rate Matters",
            arXiv:2602.04998 (Qwen3-0.6B). Of methods that it has not measured: two points of a grid, so that five
            points reach from default LoRA's rate down to a tenth of it. Full fine-tuning: a tenth, as is usual.
    """

    structure: str = ""
    standard: bool = False
    keeps_student: bool = True
    whole: bool = False
    budget_note: str = ""
    lower_rate: float = 10**0.5

    @property
    def needs_teacher(self) -> bool:
        return "teacher" in self.needs

    @property
    def reads_samples(self) -> bool:
        """Whether the student reads the seed samples before its adapter starts."""
        return not {"activations", "gradients"}.isdisjoint(self.needs)


@dataclass(frozen=True, kw_only=True)
class Arm(Line):
    """A line of a study: what it changes in the base spec.

    Attributes:
        changes: dotted keys of the spec -> values; a text that starts with `$` stands for what only a study knows:
            `$student` for the base's student, `$seed` for the run's seed, `$wrong_task` for the study's other task.
            What a factor of the study sets goes before what its arms change.
        keeps_student: as of a method.
        budget_note: where it does not train as much as default LoRA beside it, a fixed rank included: what, in words.
    """

    changes: Mapping[str, Any]
    keeps_student: bool = True
    budget_note: str = ""


@dataclass(frozen=True, kw_only=True)
class Scorer(Row):
    """A way to score answers; `code` names a function of an example and of `tasks.scorers.Evidence`.

    Attributes:
        by: what the model does with an example: write an answer; write one that a judge compares with the reference;
            choose one of the choices; read the reference, which tells how likely it finds it.
        unit: of the score of a whole split: a share, or a perplexity.
    """

    by: Literal["writing", "judge", "choice", "reading"]
    unit: Literal["share", "ppl"] = "share"

    @property
    def writes(self) -> bool:
        return self.by in ("writing", "judge")

    @property
    def judged(self) -> bool:
        return self.by == "judge"


AnyRow = TypeVar("AnyRow", bound=Row)


def table(*rows: AnyRow) -> dict[str, AnyRow]:
    """Return rows by their names, in their order, which is also the order in which people see them."""
    return {row.name: row for row in rows}


PAPER = "Zhong et al., ICLR 2024, arXiv:2310.11451"
PAPER_METHOD, BASELINE = "seeking", "default_lora"  # what all is about, and what it is compared with first
MANUAL = "manual"  # the strategy, and the selection of seed samples, that take what a person lists

_OF_TEACHER = ("teacher", "sensitivity", "mapping", "injection", "factorisation.split")
_OF_BLOCK = (*_OF_TEACHER, "extraction.structure")
_OF_BOTH = ("teacher", "sensitivity")  # what the method's row, and those of its controls that cut a block, need

METHODS = table(
    Method(
        "seeking",
        "seeking (the method)",
        "The method: starts from the teacher's most sensitive blocks.",
        "methods.seeking.method:Seeking",
        needs=_OF_BOTH,
        reads=_OF_BLOCK,
        source=PAPER,
        colour="#0072B2",
        dark_colour="#0072B2",
        standard=True,
    ),
    Method(
        "default_lora",
        "default LoRA",
        "A random, B zero: what everybody starts from.",
        "methods.controls:DefaultLora",
        control_of="seeking",
        source="Hu et al., ICLR 2022, arXiv:2106.09685",
        colour="#999999",
        dark_colour="#999999",
        standard=True,
        lower_rate=1.0,
    ),
    Method(
        "pissa",
        "PiSSA",
        "Starts from the student's own largest singular directions: B A = U S Vᵀ of W.",
        "methods.controls:Pissa",
        control_of="seeking",
        source="Meng et al., NeurIPS 2024, arXiv:2404.02948",
        colour="#E69F00",
        dark_colour="#E69F00",
        pattern="/",
        standard=True,
        lower_rate=10.0,
    ),
    Method(
        "olora",
        "OLoRA",
        "Starts from a QR factorisation of the student's own weight.",
        "methods.controls:Olora",
        control_of="seeking",
        source="Büyükakyüz, 2024, arXiv:2406.01775",
        colour="#B8A200",
        dark_colour="#F0E442",
        pattern="\\",
        standard=True,
        lower_rate=18.0,
    ),
    Method(
        "random_offset",
        "random offset",
        "Like the method, but the block's place in the teacher is random: is it the sensitive block?",
        "methods.seeking.method:Seeking",
        needs=_OF_BOTH,
        reads=(*_OF_TEACHER, "extraction.seed"),
        control_of="seeking",
        source=PAPER,
        colour="#56B4E9",
        dark_colour="#56B4E9",
        pattern="x",
        structure="random_offset",
        standard=True,
    ),
    Method(
        "least_sensitive",
        "least sensitive",
        "Like the method, but with the block that matters least to the teacher: does sensitivity tell blocks apart?",
        "methods.seeking.method:Seeking",
        needs=_OF_BOTH,
        reads=_OF_TEACHER,
        control_of="seeking",
        colour="#2B8CBE",
        dark_colour="#3FA3D8",
        pattern="-",
        structure="least_sensitive",
    ),
    Method(
        "permuted",
        "permuted block",
        "The method's block with its rows and columns in random order, the same entries and spectrum: do their places "
        "matter?",
        "methods.seeking.controls:Permuted",
        needs=_OF_BOTH,
        reads=(*_OF_BLOCK, "extraction.seed"),
        control_of="seeking",
        colour="#6A51A3",
        dark_colour="#9E88D4",
        pattern="x",
    ),
    Method(
        "spectrum_matched",
        "spectrum matched",
        "The singular values of the method's block with random singular vectors: is it more than a matrix of that "
        "scale?",
        "methods.seeking.controls:SpectrumMatched",
        needs=_OF_BOTH,
        reads=(*_OF_BLOCK, "extraction.seed"),
        control_of="seeking",
        colour="#9467BD",
        dark_colour="#B08FD8",
        pattern=".",
    ),
    Method(
        "norm_matched",
        "block at PiSSA's norm",
        "The method's product scaled to the Frobenius norm of PiSSA's: is it only another scale?",
        "methods.seeking.controls:NormMatched",
        needs=_OF_BOTH,
        reads=_OF_BLOCK,
        control_of="seeking",
        colour="#4B3F9E",
        dark_colour="#8078D0",
        pattern="|",
    ),
    Method(
        "pissa_matched",
        "PiSSA at the block's norm",
        "PiSSA's product scaled to the Frobenius norm of the method's: is it only another scale?",
        "methods.seeking.controls:PissaMatched",
        needs=_OF_BOTH,
        reads=tuple(key for key in _OF_BLOCK if key != "factorisation.split"),
        control_of="pissa",
        colour="#C77C02",
        dark_colour="#C98A1F",
        pattern="|",
    ),
    Method(
        "milora",
        "MiLoRA",
        "Starts from the student's own smallest singular directions: PiSSA from the other end.",
        "methods.controls:Milora",
        control_of="pissa",
        source="Wang et al., NAACL 2025, arXiv:2406.09044",
        colour="#CC6677",
        dark_colour="#CC6677",
        pattern="/",
        lower_rate=3.2,
    ),
    Method(
        "init_ab",
        "Init[AB]",
        "A and B random, their product taken off: does any start with B A ≠ 0 do as well?",
        "methods.controls:InitAB",
        control_of="seeking",
        source="as Init[AB] in arXiv:2602.04998",
        colour="#882255",
        dark_colour="#C0507F",
        pattern="x",
        lower_rate=1.8,
    ),
    Method(
        "lora_ga",
        "LoRA-GA",
        "Starts from singular directions of the student's gradient on the seed samples, as the paper has it; "
        "PEFT's differs.",
        "methods.seed_samples:LoraGa",
        needs=("gradients",),
        reads=("sensitivity",),
        control_of="seeking",
        source="Wang et al., NeurIPS 2024, arXiv:2407.05000",
        colour="#117733",
        dark_colour="#3E9E5E",
        pattern="+",
        lower_rate=18.0,
    ),
    Method(
        "lora_one",
        "LoRA-One",
        "Starts one step of gradient descent on the seed samples away from the student.",
        "methods.seed_samples:LoraOne",
        needs=("gradients",),
        reads=("sensitivity",),
        control_of="seeking",
        source="Zhang et al., ICML 2025, arXiv:2502.01235",
        colour="#999933",
        dark_colour="#999933",
        pattern="|",
        keeps_student=False,
    ),
    Method(
        "corda",
        "CorDA",
        "Starts from the part of the student's weight that its inputs on the seed samples use most (instruction "
        "preview).",
        "methods.seed_samples:Corda",
        needs=("activations",),
        reads=("sensitivity",),
        control_of="seeking",
        source="Yang et al., NeurIPS 2024, arXiv:2406.05223",
        colour="#AA4499",
        dark_colour="#AA4499",
        pattern="\\",
    ),
    Method(
        "eva",
        "EVA",
        "A from the main directions of the student's inputs on the seed samples, B zero; one rank everywhere (ρ = 1).",
        "methods.seed_samples:Eva",
        needs=("activations",),
        reads=("sensitivity",),
        control_of="default_lora",
        source="Paischer et al., NeurIPS 2025, arXiv:2410.07170",
        colour="#44AA99",
        dark_colour="#44AA99",
        pattern=".",
        lower_rate=1.0,  # B is zero
    ),
    Method(
        "full_finetuning",
        "full fine-tuning",
        "Trains every weight of the chosen modules: an upper reference for adapters.",
        "methods.controls:FullFinetuning",
        ignores=("factorisation.rank", "factorisation.lora_alpha"),
        control_of="default_lora",
        colour="#7A4EA3",
        dark_colour="#B491D6",
        pattern="-",
        whole=True,
        budget_note="trains every weight of the chosen modules",
        lower_rate=10.0,
    ),
)


_PLAIN = {"injection.mode": "residual"}  # of arms that read it, unless a study says otherwise
_SEEKING = {"method": PAPER_METHOD, **_PLAIN}


def _arm_of_method(row: Method) -> Arm:
    """Return the arm that runs a method as a study does: in residual mode, unless the study says otherwise."""
    mode = _PLAIN if "injection" in row.reads else {}
    said = ("label", "text", "control_of", "source", "colour", "dark_colour", "pattern", "keeps_student", "budget_note")
    return Arm(row.name, changes={"method": row.name, **mode}, **{key: getattr(row, key) for key in said})


# The arms that a study may name: every method, and the method with other settings.
ARMS = table(
    *map(_arm_of_method, METHODS.values()),
    Arm(
        "difference",
        "seeking, difference",
        "The method in difference mode: the student's weight moves towards the block.",
        changes={"method": PAPER_METHOD, "injection.mode": "difference"},
        control_of="seeking",
        colour="#004D7A",
        dark_colour="#5BB8F0",
        pattern="+",
        keeps_student=False,
    ),
    Arm(
        "additive",
        "seeking, additive",
        "The method in additive mode: the block is added to the student's weight.",
        changes={"method": PAPER_METHOD, "injection.mode": "additive"},
        control_of="seeking",
        colour="#08306B",
        dark_colour="#8DB9E8",
        pattern="-",
        keeps_student=False,
    ),
    Arm(
        "sqrt_split",
        "seeking, sqrt split",
        "The method with the root of the singular values on both sides, as in PiSSA: the same product, trained "
        "otherwise.",
        changes={**_SEEKING, "factorisation.split": "sqrt"},
        control_of="seeking",
        colour="#4292C6",
        dark_colour="#7FC0EE",
        pattern="/",
    ),
    Arm(
        "random_mapping",
        "random layers",
        "The method with any teacher layers, in their order: does it matter which layers are taken?",
        changes={**_SEEKING, "mapping.strategy": "random", "mapping.layers": []},
        control_of="seeking",
        colour="#3F6B8F",
        dark_colour="#8FB0CC",
        pattern="x",
    ),
    Arm(
        "untrained_teacher",
        "untrained teacher",
        "The method with random weights in the teacher's place, measured and cut in the same way: does what it has "
        "learnt matter?",
        changes={**_SEEKING, "teacher.untrained": "$seed"},
        control_of="seeking",
        colour="#8C6D31",
        dark_colour="#C9A961",
        pattern=".",
    ),
    Arm(
        "wrong_task",
        "wrong task",
        "The method with the teacher measured on seed samples of another task: does the task matter?",
        changes={**_SEEKING, "sensitivity.task": "$wrong_task"},
        control_of="seeking",
        colour="#B5893C",
        dark_colour="#DDBB70",
        pattern="x",
    ),
    Arm(
        "self_block",
        "student's own block",
        "The method with the student as its own teacher. The window is then the whole weight, so that it is PiSSA with "
        "the other split and LoRA's scale.",
        changes={**_SEEKING, "teacher": "$student"},
        control_of="seeking",
        colour="#6B4F1D",
        dark_colour="#A98C55",
        pattern="-",
    ),
    Arm(
        "zero_step",
        "seeking, zero steps",
        "The method's start without a step of training: in residual mode the untouched student.",
        changes={**_SEEKING, "finetuning.max_steps": 0},
        control_of="seeking",
        colour="#5E5E5E",
        dark_colour="#B0B0B0",
        budget_note="trains nothing",
    ),
)

# Untrained models that stand beside a run as lines of their own.
UNTRAINED = table(
    Line(
        "student", "student, untouched", "The student as it is.", colour="#B4BBBE", dark_colour="#5A6266", pattern="."
    ),
    Line(
        "teacher", "teacher, untouched", "The teacher as it is.", colour="#6E7679", dark_colour="#C3C9CB", pattern="-"
    ),
)

STRUCTURES = table(
    Row(
        "submatrix",
        "submatrix",
        "the window of the student's shape with the largest sum of S (the paper)",
        "ops.structure:submatrix",
        needs=("sensitivity",),
        source=PAPER,
    ),
    Row(
        "row_column",
        "row/column",
        "the rows and the columns with the largest mean S, in their order, intersected",
        "ops.structure:row_column",
        needs=("sensitivity",),
        source=PAPER,
    ),
    Row(
        "neuron",
        "single weights",
        "the single weights with the largest S, in reading order (our definition)",
        "ops.structure:neuron",
        needs=("sensitivity",),
    ),
    Row(
        "random",
        "random weights",
        "single weights at random, in reading order: a control (our definition)",
        "ops.structure:random_weights",
        reads=("extraction.seed",),
        control_of="neuron",
    ),
    Row(
        "coherent_window",
        "coherent window",
        "one range of channels for the whole model, of whole heads and of neurons for each layer, with the largest S",
        "ops.coherent:contiguous",
        needs=("reductions",),
    ),
    Row(
        "coherent_scattered",
        "coherent, scattered",
        "the channels of the whole model, the whole heads and the neurons of each layer with the largest S, in order",
        "ops.coherent:scattered",
        needs=("reductions",),
    ),
    Row(
        "even_slice",
        "even slice",
        "evenly spaced rows and columns, the same wherever sizes are the same: a control that needs no S",
        "ops.structure:even_slice",
        control_of="coherent_scattered",
        source="weight selection: Xu et al., ICLR 2024",
    ),
    Row(
        "random_offset",
        "random offset",
        "a window of the student's shape at a random place: a control",
        "ops.structure:random_offset",
        reads=("extraction.seed",),
        control_of="submatrix",
        source=PAPER,
        offered=False,
    ),
    Row(
        "least_sensitive",
        "least sensitive",
        "the window of the student's shape with the smallest sum of S: a control",
        "ops.structure:least_sensitive",
        needs=("sensitivity",),
        control_of="submatrix",
        offered=False,
    ),
)

STRATEGIES = table(
    Row(
        "sensitivity",
        "sensitivity",
        "the teacher layers with the largest S, in their order (the paper)",
        "methods.mapping:by_sensitivity",
        needs=("sensitivity",),
        source=PAPER,
    ),
    Row("top", "top", "the first teacher layers, from the input on", "methods.mapping:top", source=PAPER),
    Row("last", "last", "the last teacher layers, up to the output", "methods.mapping:last", source=PAPER),
    Row(
        "random",
        "random",
        "any teacher layers, in their order: a control",
        "methods.mapping:at_random",
        reads=("mapping.seed",),
        control_of="sensitivity",
        source=PAPER,
    ),
    Row(
        "cka",
        "CKA",
        "the teacher layers whose hidden states are most alike on the seed samples (linear CKA), in their order",
        "methods.mapping:by_cka",
        needs=("activations",),
        source="linear CKA: Kornblith et al., ICML 2019, arXiv:1905.00414",
    ),
    Row(
        "stitch",
        "stitching",
        "the teacher layers whose hidden states predict the student's best (held-out R² of a ridge map), in order",
        "methods.mapping:by_stitch",
        needs=("activations",),
    ),
    Row("uniform", "uniform", "evenly spaced teacher layers, first and last included", "methods.mapping:uniform"),
    Row(MANUAL, "manual", "as set here, layer by layer", "methods.mapping:manual"),
)

MODES = table(
    Row("residual", "residual", "W − s·B₀A₀ + s·BA: outputs unchanged at step 0 (the paper)", source=PAPER),
    Row("additive", "additive", "W + s·BA with BA ≈ block: the block is added"),
    Row("difference", "difference", "W + s·BA with s·BA ≈ block − W: the weight moves towards the block"),
)

SPLITS = table(
    Row("us_v", "us_v", "B = U·S, A = Vᵀ (the paper)", source=PAPER),
    Row("sqrt", "sqrt", "B = U·√S, A = √S·Vᵀ (as in PiSSA)", source="Meng et al., NeurIPS 2024, arXiv:2404.02948"),
)

SELECTIONS = table(
    Row("first", "First", "the first examples of the train split", reads=("sensitivity.samples",), source=PAPER),
    Row("random", "Random", "any examples of the train split", reads=("sensitivity.samples", "sensitivity.seed")),
    Row(MANUAL, "By hand", "the examples that are listed"),
)

SCORERS = table(
    Scorer(
        "number_match",
        "number match",
        "the last number of the answer is the reference's",
        "tasks.scorers:number_match",
        by="writing",
    ),
    Scorer(
        "multiple_choice",
        "multiple choice",
        "the right choice is the likeliest",
        "tasks.scorers:multiple_choice",
        by="choice",
    ),
    Scorer(
        "exact_match",
        "exact match",
        "the answer is the reference, word for word",
        "tasks.scorers:exact_match",
        by="writing",
    ),
    Scorer("rouge_l", "ROUGE-L", "longest common run of words with the reference", "tasks.scorers:rouge", by="writing"),
    Scorer(
        "perplexity",
        "perplexity",
        "how unlikely the reference is, per token",
        "tasks.scorers:perplexity",
        by="reading",
        unit="ppl",
    ),
    Scorer("win_rate", "win rate", "a judge prefers the answer to the reference", "tasks.scorers:win_rate", by="judge"),
)

# The keys of a spec whose value is the name of a row, in the order in which one decides whether another is read.
CHOICES: dict[str, Mapping[str, Row]] = {
    "method": METHODS,
    "sensitivity.selection": SELECTIONS,
    "mapping.strategy": STRATEGIES,
    "extraction.structure": STRUCTURES,
    "factorisation.split": SPLITS,
    "injection.mode": MODES,
}


def offered(rows: Mapping[str, Row]) -> tuple[str, ...]:
    """Return the names of a table that a spec may ask for."""
    return tuple(name for name, row in rows.items() if row.offered)


def asks_judge(scorers: Iterable[str]) -> bool:
    """Tell whether one of some scorers has answers judged by a model."""
    return any(SCORERS[name].judged for name in scorers)


def unread(settings: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys that a run does not read because of its method, or of another choice.

    Args:
        settings: every setting of a spec by its dotted key.
    """
    return _unread(tuple(settings), tuple(map(settings.get, CHOICES)))


@lru_cache(1024)
def _unread(keys: tuple[str, ...], chosen: tuple[str, ...]) -> frozenset[str]:
    """Return `unread` of specs with these keys and choices: thousands of runs make the same ones."""
    read: set[str] = set()
    ignored: set[str] = set()
    for (key, rows), name in zip(CHOICES.items(), chosen, strict=True):
        if read.issuperset(_special(key)):  # what is chosen where nobody looks reads nothing
            read.update(rows[name].reads)
            ignored.update(rows[name].ignores)
    return frozenset(key for key in keys if key in ignored or not read.issuperset(_special(key)))


@cache
def _special(key: str) -> frozenset[str]:
    """Return the parts of a spec which hold this key and which only rows that name them read."""
    parts = {part for rows in CHOICES.values() for row in rows.values() for part in row.reads}
    return frozenset(part for part in parts if f"{key}.".startswith(f"{part}."))


def implementation(row: Row) -> Any:
    """Return the class or function that does what a row says; loads its module, and torch with most of them."""
    module, _, name = row.code.partition(":")
    return getattr(import_module(f"paraknow_core.{module}"), name)
