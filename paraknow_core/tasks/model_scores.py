"""Let a model answer the examples of a task, and score the answers. Needs torch; see `scorers` for what is scored.

A scorer's row in the catalogue says what the model does for it: writing (`write`, once for all scorers, and for
`judge` the judge reads what was written), `choice` and `reading`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.catalogue import SCORERS
from paraknow_core.errors import DataError
from paraknow_core.tasks.fitting import check_rows, rows_of
from paraknow_core.tasks.generation import answer_text, context_limit, end_tokens, generate, rows_at_once
from paraknow_core.tasks.likelihood import Row, choice_rows, label_row, log_probabilities
from paraknow_core.tasks.scorers import Evidence, Record, record, score_output
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import answer_ends, encode, encode_prompt, encode_split, render
from paraknow_core.tasks.thoughts import judged

OnRecords = Callable[[list[Record]], None]
Progress = Callable[[int, int], None]
Skip = Collection[str] | Mapping[str, Collection[str]]
AT_ONCE = 32  # examples


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
    batch_size: int | None = None,
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
        batch_size: examples at once; None: 32, and more where a small model writes. Results do not depend on it, up to
            rounding.
        max_new_tokens: None takes the task's.
        judge: (model, tokenizer), for scorers that ask one.
        skip: ids that are already done, for all scorers, or for each scorer its own.
        on_records: called after each batch with its new records.
        progress: called with (done, total), counted in examples over all passes.

    Returns:
        For each scorer its new records, in the order of the examples.

    Raises:
        DataError: an example does not fit the model's context, or there is no judge for a scorer that asks one.
        NumericError: the model gives NaN.
    """
    judging = [s for s in scorers if SCORERS[s].judged]
    if judging and judge is None:
        raise DataError(f"{judging[0]}: no judge is given; set task.judge to a model")
    done = {s: set(skip.get(s, ()) if isinstance(skip, Mapping) else skip) for s in scorers}
    job = _Job(model, tokenizer, task, batch_size, max_new_tokens or task.max_new_tokens, judge, on_records, progress)
    todo = {s: [e for e in examples if e.id not in done[s]] for s in scorers}
    written = {s: {e.id for e in todo[s]} for s in scorers if SCORERS[s].writes}
    to_write = [e for e in examples if any(e.id in ids for ids in written.values())]
    other = {s: part for s, part in todo.items() if s not in written and part}
    job.total = len(to_write) + sum(map(len, other.values()))
    with _evaluation_mode(model), _evaluation_mode(judge[0] if judge else model):
        if to_write:
            job.write(to_write, written)
        for scorer, part in other.items():
            (job.choose if SCORERS[scorer].by == "choice" else job.read)(scorer, part)
    place = {example.id: index for index, example in enumerate(examples)}
    return {s: sorted((r for r in job.records if r.scorer == s), key=lambda r: place[r.id]) for s in scorers}


@dataclass
class _Job:
    """One evaluation: the passes over the examples, and whom to tell after each batch."""

    model: Any
    tokenizer: Any
    task: Task
    batch_size: int | None
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

    def write(self, examples: Sequence[Example], ids_of: Mapping[str, set[str]]) -> None:
        """Generate answers, longest prompts first, and score them.

        Args:
            examples: what to write answers to.
            ids_of: scorer -> ids of the examples that it scores.
        """
        template, tokenizer, limit = self.task.template, self.tokenizer, self.limit
        of_model = limit < self.task.max_length
        prompts = {e.id: encode_prompt(e, template, tokenizer, limit, room=1, of_model=of_model) for e in examples}
        rows, ends, tails = rows_of(self.model), end_tokens(self.model, tokenizer), {}
        for example in examples:
            check_rows(prompts[example.id], rows, tokenizer, f"example {example.id}")
            rendered = render(example, template, tokenizer)
            ends, tails[example.id] = ends | answer_ends(rendered, tokenizer), rendered.tail
        longest = min(limit, max(map(len, prompts.values())) + self.max_new_tokens)
        at_once = self.batch_size or rows_at_once(self.model, longest, AT_ONCE)
        for batch in self._batches(examples, lambda e: len(prompts[e.id]), at_once):
            asked = [prompts[e.id] for e in batch]
            answers = generate(self.model, asked, max_new_tokens=self.max_new_tokens, limit=limit, ends=ends)
            by_id = {e.id: answer for e, answer in zip(batch, answers, strict=True)}
            texts = {i: answer_text(tokenizer, answer.tokens, template, tails[i]) for i, answer in by_id.items()}
            records = []
            for scorer, ids in ids_of.items():
                part = [e for e in batch if e.id in ids]
                if SCORERS[scorer].judged:
                    scored = self._judge(scorer, part, texts)
                else:
                    scored = [score_output(scorer, e, texts[e.id]) for e in part]
                for entry in scored:
                    answer = by_id[entry.id]
                    entry.detail.update(stopped=answer.stopped, new_tokens=len(answer.tokens))
                records += scored
            self._tell(records, len(batch))

    def choose(self, scorer: str, examples: Sequence[Example]) -> None:
        """Take the choice with the largest log-probability; the first one on ties."""
        for batch in self._batches(examples):
            rows = [choice_rows(e, self.task.template, self.tokenizer, self.limit) for e in batch]
            sums = iter(self._log_probabilities([row for part in rows for row in part]))
            records = []
            for example, part in zip(batch, rows, strict=True):
                values = [value for _ in part for value in next(sums)]
                log_probs = dict(zip(example.choices, values, strict=True))
                best = example.choices[max(range(len(values)), key=values.__getitem__)]
                records.append(record(scorer, example, best, Evidence(best, log_probs)))
            self._tell(records, len(batch))

    def read(self, scorer: str, examples: Sequence[Example]) -> None:
        """Sum the nats of every supervised token; a text example is the sum of its windows."""
        for batch in self._batches(examples):
            entries = encode_split(batch, self.task, self.tokenizer, self.limit)
            rows = [label_row(entry) for entry in entries]
            nats, tokens, sizes = (dict.fromkeys((e.id for e in batch), zero) for zero in (0.0, 0, 0))
            for entry, row, (log_prob,) in zip(entries, rows, self._log_probabilities(rows), strict=True):
                nats[entry.id] -= log_prob
                tokens[entry.id] += len(row.asked[0])
                sizes[entry.id] += entry.bytes
            measured = [(e, Evidence("", {}, nats[e.id], tokens[e.id], sizes[e.id])) for e in batch if tokens[e.id]]
            self._tell([record(scorer, e, "", evidence) for e, evidence in measured], len(batch))

    def _log_probabilities(self, rows: Sequence[Row]) -> list[list[float]]:
        count = rows_of(self.model)
        for row in rows:
            asked = [token for group in row.asked for _, token in group]
            check_rows([*row.tokens, *asked], count, self.tokenizer, f"example {row.id}")
        return log_probabilities(self.model, rows, self.batch_size or AT_ONCE)

    def _batches(
        self,
        examples: Sequence[Example],
        length: Callable[[Example], int] = lambda e: len(e.question + e.reference),
        at_once: int | None = None,
    ) -> Iterator[Sequence[Example]]:
        order, size = sorted(examples, key=length, reverse=True), at_once or self.batch_size or AT_ONCE
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _judge(self, scorer: str, examples: Sequence[Example], texts: Mapping[str, str]) -> list[Record]:
        """Ask the judge for the mean log-likelihood per token of output and reference; an empty output loses.

        Neither the thoughts of the two nor their end marks count.
        """
        model, tokenizer = self.judge  # type: ignore[misc]
        limit = context_limit(model, self.task.max_length)
        rows, answers = [], []
        for example in examples:
            answer, reference = judged(texts[example.id], example.reference)
            answers.append(answer)
            for text in (answer or reference, reference):
                read = example.with_answer(text)
                entry = encode(read, self.task.template, tokenizer, limit, of_model=limit < self.task.max_length)
                check_rows(entry.input_ids, rows_of(model), tokenizer, f"example {example.id}", "judge")
                ends = {tokenizer.eos_token_id} | answer_ends(render(read, self.task.template, tokenizer), tokenizer)
                last = entry.labels[-1]
                rows.append(label_row(entry, drop_last=last if last in ends else None))
        sums = log_probabilities(model, rows, self.batch_size or AT_ONCE)
        means = [total / len(row.asked[0]) for row, (total,) in zip(rows, sums, strict=True)]
        return [
            record(scorer, example, texts[example.id], Evidence(answer, judge_means=pair))
            for example, answer, pair in zip(examples, answers, zip(means[::2], means[1::2], strict=True), strict=True)
        ]

    def _tell(self, records: list[Record], examples: int) -> None:
        self.records += records
        self.done += examples
        if self.on_records and records:
            self.on_records(records)
        if self.progress:
            self.progress(self.done, self.total)


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
