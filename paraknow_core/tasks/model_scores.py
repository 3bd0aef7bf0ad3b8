"""Let a model answer the examples of a task, and score the answers. Needs torch; see `scorers` for the summaries."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.characters import same_text
from paraknow_core.tasks.fitting import check_rows, rows_of
from paraknow_core.tasks.generation import Generated, answer_text, context_limit, end_tokens, generate
from paraknow_core.tasks.likelihood import Row, choice_rows, label_row, log_probabilities
from paraknow_core.tasks.scorers import GENERATIVE, LIKELIHOOD, Record, record, score_output
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import answer_ends, encode, encode_prompt, encode_split, render
from paraknow_core.tasks.thoughts import judged

OnRecords = Callable[[list[Record]], None]
Progress = Callable[[int, int], None]
Skip = Collection[str] | Mapping[str, Collection[str]]
TIE = 1e-6  # nats per token


def evaluate(
    model: Any, tokenizer: Any, task: Task, examples: Sequence[Example], scorer: str, **options: Any
) -> list[Record]:
    """Score examples by one scorer; see `evaluate_all` for the options."""
    return evaluate_all(model, tokenizer, task, examples, (scorer,), **options)[scorer]


def evaluate_all(
    model: Any,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    scorers: Sequence[str],
    *,
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    judge: tuple[Any, Any] | None = None,
    skip: Skip = (),
    on_records: OnRecords | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Record]]:
    """Score examples by several scorers; what the model writes is generated once for all of them.

    Args:
        model: a causal language model; put into evaluation mode for the time of the call.
        tokenizer: the model's.
        examples: of the task; only their prompts are shown to the model, answers are only scored.
        batch_size: examples at once; results do not depend on it, up to rounding.
        max_new_tokens: None takes the task's.
        judge: (model, tokenizer) for win_rate.
        skip: ids that are already done, for all scorers, or for each scorer its own.
        on_records: called after each batch with its new records.
        progress: called with (done, total), counted in examples over all passes.

    Returns:
        For each scorer its new records, in the order of the examples.

    Raises:
        DataError: an example does not fit the model's context, or win_rate has no judge.
        NumericError: the model gives NaN.
    """
    if "win_rate" in scorers and judge is None:
        raise DataError("win_rate: no judge is given; set task.judge to a model")
    done = {s: set(skip.get(s, ()) if isinstance(skip, Mapping) else skip) for s in scorers}
    job = _Job(model, tokenizer, task, batch_size, max_new_tokens or task.max_new_tokens, judge, on_records, progress)
    written = [scorer for scorer in scorers if scorer in GENERATIVE]
    todo = {s: [e for e in examples if e.id not in done[s]] for s in scorers if s in LIKELIHOOD}
    to_write = [e for e in examples if any(e.id not in done[s] for s in written)]
    job.total = len(to_write) + sum(map(len, todo.values()))
    with _evaluation_mode(model), _evaluation_mode(judge[0] if judge else model):
        if to_write:
            job.write(to_write, {s: {e.id for e in to_write} - done[s] for s in written})
        for scorer, part in todo.items():
            if part:
                (job.choose if scorer == "multiple_choice" else job.measure)(part)
    place = {example.id: index for index, example in enumerate(examples)}
    return {s: sorted((r for r in job.records if r.scorer == s), key=lambda r: place[r.id]) for s in scorers}


@dataclass
class _Job:
    """One evaluation: the passes over the examples, and whom to tell after each batch."""

    model: Any
    tokenizer: Any
    task: Task
    batch_size: int
    max_new_tokens: int
    judge: tuple[Any, Any] | None
    on_records: OnRecords | None
    progress: Progress | None
    total: int = 0
    done: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def limit(self) -> int:
        return context_limit(self.model, self.task.max_length)

    def write(self, examples: Sequence[Example], wanted: Mapping[str, set[str]]) -> None:
        """Generate answers, longest prompts first, and score them by every scorer that wants the example."""
        template, tokenizer = self.task.template, self.tokenizer
        limit, of_model = self.limit, self.limit < self.task.max_length
        prompts = {e.id: encode_prompt(e, template, tokenizer, limit, room=1, of_model=of_model) for e in examples}
        rows, ends, tails = rows_of(self.model), end_tokens(self.model, tokenizer), {}
        for example in examples:
            check_rows(prompts[example.id], rows, tokenizer, f"example {example.id}")
            rendered = render(example, template, tokenizer)
            ends, tails[example.id] = ends | answer_ends(rendered, tokenizer), rendered.tail
        order = sorted(examples, key=lambda e: -len(prompts[e.id]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            answers = generate(
                self.model,
                [prompts[e.id] for e in batch],
                max_new_tokens=self.max_new_tokens,
                limit=self.limit,
                ends=ends,
            )
            texts = [
                answer_text(tokenizer, answer.tokens, template, tails[e.id])
                for e, answer in zip(batch, answers, strict=True)
            ]
            self._tell(self._score(batch, answers, texts, wanted), len(batch))

    def choose(self, examples: Sequence[Example]) -> None:
        """Take the choice with the largest log-probability; the first one on ties."""
        limit = self.limit
        for batch in self._batches(examples):
            rows = [choice_rows(e, self.task.template, self.tokenizer, limit) for e in batch]
            self._check(row for part in rows for row in part)
            sums = iter(log_probabilities(self.model, [row for part in rows for row in part], self.batch_size))
            made = []
            for example, part in zip(batch, rows, strict=True):
                values = [value for _ in part for value in next(sums)]
                best = example.choices[max(range(len(values)), key=values.__getitem__)]
                detail = {"log_probs": dict(zip(example.choices, values, strict=True))}
                made.append(record("multiple_choice", example, best, float(same_text(best, example.reference)), detail))
            self._tell(made, len(batch))

    def measure(self, examples: Sequence[Example]) -> None:
        """Sum the nats of every supervised token; a text example is the sum of its windows."""
        for batch in self._batches(examples):
            entries = encode_split(batch, self.task, self.tokenizer, self.limit)
            rows = [label_row(entry) for entry in entries]
            self._check(rows)
            sums = log_probabilities(self.model, rows, self.batch_size)
            totals = {e.id: [0.0, 0, 0] for e in batch}
            for entry, row, (log_prob,) in zip(entries, rows, sums, strict=True):
                total = totals[entry.id]
                total[0], total[1], total[2] = (
                    total[0] - log_prob,
                    total[1] + len(row.asked[0]),
                    total[2] + entry.bytes,
                )
            self._tell([_perplexity(e, *totals[e.id]) for e in batch if totals[e.id][1]], len(batch))

    def _check(self, rows: Iterable[Row]) -> None:
        known = rows_of(self.model)
        for row in rows:
            asked = [token for group in row.asked for _, token in group]
            check_rows([*row.tokens, *asked], known, self.tokenizer, f"example {row.id}")

    def _batches(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        order = sorted(examples, key=lambda e: -len(e.question) - len(e.reference))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _score(
        self, batch: Sequence[Example], answers: Sequence[Generated], texts: Sequence[str], wanted: Mapping
    ) -> list[Record]:
        made = []
        for scorer, ids in wanted.items():
            part = [(e, a, text) for e, a, text in zip(batch, answers, texts, strict=True) if e.id in ids]
            if scorer == "win_rate":
                scored = self._judge([(e, text) for e, _, text in part])
            else:
                scored = [score_output(scorer, e, text) for e, _, text in part]
            for entry, (_, answer, _) in zip(scored, part, strict=True):
                entry.detail.update(stopped=answer.stopped, new_tokens=len(answer.tokens))
            made += scored
        return made

    def _judge(self, part: Sequence[tuple[Example, str]]) -> list[Record]:
        """Compare the judge's mean log-likelihood per token of output and reference; an empty output loses.

        Neither the thoughts of the two nor their end marks count.
        """
        model, tokenizer = self.judge  # type: ignore[misc]
        limit = context_limit(model, self.task.max_length)
        rows, answers = [], []
        for example, text in part:
            given, against = judged(text, example.reference)
            answers.append(given)
            for answer in (given or against, against):
                asked = example.with_answer(answer)
                entry = encode(asked, self.task.template, tokenizer, limit, of_model=limit < self.task.max_length)
                check_rows(entry.input_ids, rows_of(model), tokenizer, f"example {example.id}", "judge")
                ends = {tokenizer.eos_token_id} | answer_ends(render(asked, self.task.template, tokenizer), tokenizer)
                last = entry.labels[-1]
                rows.append(label_row(entry, drop_last=last if last in ends else None))
        sums = log_probabilities(model, rows, self.batch_size)
        means = [total / len(row.asked[0]) for row, (total,) in zip(rows, sums, strict=True)]
        made = []
        for (example, text), given, own, other in zip(part, answers, means[::2], means[1::2], strict=True):
            outcome = "loss" if not given or own < other - TIE else "win" if own > other + TIE else "tie"
            detail = {"outcome": outcome, "output_nats": -own if given else None, "reference_nats": -other}
            made.append(record("win_rate", example, text, {"win": 1.0, "tie": 0.5, "loss": 0.0}[outcome], detail))
        return made

    def _tell(self, made: list[Record], examples: int) -> None:
        self.records += made
        self.done += examples
        if self.on_records and made:
            self.on_records(made)
        if self.progress:
            self.progress(self.done, self.total)


def _perplexity(example: Example, nats: float, tokens: int, size: int) -> Record:
    detail = {"nats": nats, "tokens": tokens, "bytes": size}
    return record("perplexity", example, "", nats / tokens, detail)


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
