"""Answers being written: every slot of a prompt has its own cache and takes one step at a time."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paraknow_core.catalogue import SCORERS
from paraknow_core.errors import ParaknowError, without_panic
from paraknow_core.files.json_file import append_line, open_lines, read_json
from paraknow_core.paths import Workspace
from paraknow_core.tasks.examples import Example, Message
from paraknow_core.tasks.fitting import check_rows, rows_of
from paraknow_core.tasks.generation import TURN_MARKS, answer_text, context_limit, end_tokens, keeps_logits
from paraknow_core.tasks.templates import answer_ends, encode_prompt, encode_raw, render
from paraknow_core.workbench.playground.protocol import SHORTLIST, Asked, generation_folder
from paraknow_core.workbench.playground.serve.sampling import Pieces, choose, shortlist
from paraknow_core.workbench.playground.serve.shelf import Held, Shelf

RETRY_S = 0.2
GIVE_UP_S = 600.0  # after so long on a full disk nobody looks any more


def begin_writing(place: Workspace, name: str, shelf: Shelf, owner: list) -> "Writing | None":
    """Take a request up; None if there is nothing to write, and the reason is in its folder where there is one."""
    try:
        folder = generation_folder(place, name)
        asked = Asked.model_validate(read_json(folder / "request.json"))
    except (ParaknowError, ValueError):
        return None
    return Writing(folder, asked, shelf, owner)


class Writing:
    """One prompt and the answers to it."""

    def __init__(self, folder: Path, asked: Asked, shelf: Shelf, owner: list) -> None:
        """Args: folder: of the generation; owner: names this process for good."""
        self.folder, self.shelf = folder, shelf
        self.lines = open_lines(folder / "lines.jsonl")
        append_line(self.lines, {"process": owner, "time": time.time()})
        self.rows: list[_Row] = []
        self.unsaid: list[dict[str, Any]] = []  # ends that could not be written yet
        self.began = time.monotonic()
        for slot in asked.slots:
            held = shelf.held.get(slot.key)
            if held is None:
                why = "its files were replaced since it was loaded" if slot.key in shelf.replaced else "not loaded"
                self._end(slot.key, "failed", error=f"{why}; load it and generate again")
                continue
            try:
                with without_panic():
                    row = _Row(held, asked)
                start = {"slot": slot.key, "event": "start"}
                append_line(self.lines, {**start, "prompt": row.prompt_text, "prompt_tokens": len(row.prompt)})
                self.rows.append(row)
            except Exception as error:  # a damaged tokenizer raises anything; the others are still asked
                self._end(slot.key, "failed", error=_sentence(error))

    def step(self) -> bool:
        """Write one token of every answer; False once all have ended."""
        if (self.folder / "stop").exists():
            for row in self.rows:
                self._finish(row, "stopped")
            self.rows = []
        for row in list(self.rows):
            self._advance(row)
            if row.ended:
                self.rows.remove(row)
        if self.rows or not self._all_said():
            return True
        with suppress(OSError):
            os.close(self.lines)
        return False

    def _all_said(self) -> bool:
        """Say again what a full disk refused: an answer without its end would look as if it were being written."""
        if self.unsaid and not self.rows:
            time.sleep(RETRY_S)  # nothing else is to be done here, but other windows may be
        while self.unsaid:
            try:
                append_line(self.lines, self.unsaid[0])
            except OSError:
                return time.monotonic() - self.began > GIVE_UP_S
            self.unsaid.pop(0)
        return True

    def drop(self, key: str) -> None:
        """End the answer of a slot whose weights are being freed."""
        for row in [row for row in self.rows if row.held.slot.key == key]:
            self._finish(row, "stopped")
            self.rows.remove(row)

    def _advance(self, row: "_Row") -> None:
        try:
            with without_panic():
                token = row.next()
            self.shelf.touch(row.held.slot.key)
            append_line(self.lines, {"slot": row.held.slot.key, **token})
        except Exception as error:  # memory of a device, a broken model, a full disk: the others go on
            self._finish(row, "failed", error=f"{row.held.slot.source}: {_sentence(error)}")
            return
        if row.ended:
            self._finish(row, row.ended)

    def _finish(self, row: "_Row", reason: str, error: str = "") -> None:
        row.ended = reason
        self._end(row.held.slot.key, reason, error, score=row.score(), per_second=row.per_second())

    def _end(self, key: str, reason: str, error: str = "", **numbers: float | None) -> None:
        record = {"slot": key, "event": "end", "reason": reason, "error": error, **numbers}
        try:
            append_line(self.lines, record)
        except OSError:
            self.unsaid.append(record)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, ParaknowError) else f"{type(error).__name__}: {str(error)[:200]}"


class _Row:
    """One slot's answer: its tokens so far, its cache, its own chance."""

    def __init__(self, held: Held, asked: Asked) -> None:
        import torch

        from paraknow_core.models.rotary import tables_of_their_own

        self.held, self.asked = held, asked
        tokenizer = held.base.tokenizer
        limit = context_limit(held.model, asked.max_length)
        self.prompt = _prompt(asked, tokenizer, limit)
        check_rows(self.prompt, rows_of(held.model), tokenizer, "the prompt", held.slot.source)
        self.prompt_text = tokenizer.decode(self.prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        self.room, self.cut = min(asked.max_new_tokens, limit - len(self.prompt)), limit - len(self.prompt)
        self.pieces = Pieces(tokenizer, self.prompt)
        rendered = None if asked.template == "none" else render(_example(asked), asked.template, tokenizer)
        self.tail = rendered.tail if rendered else ""
        self.ends = end_tokens(held.model, tokenizer) | (answer_ends(rendered, tokenizer) if rendered else set())
        self.written: list[int] = []
        self.text, self.ended = "", ""
        self.cache: Any = None
        self.rotary, self.tables = tables_of_their_own(held.model), ()
        self.generator = torch.Generator().manual_seed(asked.seed)
        self.began = 0.0

    def next(self) -> dict[str, Any]:
        """Compute one token; `ended` says afterwards whether it was the last."""
        self.began = self.began or time.monotonic()
        logits = self._logits()
        token = choose(logits, self.asked.temperature, self.asked.top_p, self.generator)
        p, top = shortlist(logits, token, SHORTLIST)
        named = [[self._name(other), share] for other, share in top]
        if token in self.ends:
            self.ended = "end"
            return {"text": self.pieces.rest(), "end_mark": self._name(token), "p": p, "top": named}
        self.written.append(token)
        text = self.pieces.add(token)
        self.text += text
        if self.asked.template == "tulu" and any(mark in self.text for mark in TURN_MARKS):
            self.ended = "turn"
        elif len(self.written) >= self.room:
            self.ended = "context" if self.room == self.cut else "max_new_tokens"
            text += self.pieces.rest()
        return {"text": text, "p": p, "top": named}

    def score(self) -> float | None:
        """Compare the answer with the reference by the task's scorer, once it has ended by itself."""
        asked = self.asked
        if asked.reference is None or asked.scorer not in SCORERS or SCORERS[asked.scorer].by != "writing":
            return None
        if self.ended == "stopped" or not self.written:
            return None
        from paraknow_core.tasks.scorers import score_output

        try:
            with without_panic():
                output = answer_text(self.held.base.tokenizer, self.written, asked.template, self.tail)
            score = float(score_output(asked.scorer, _example(asked), output).score)
        except Exception:  # an answer that cannot be compared is still an answer
            return None
        return score if math.isfinite(score) else None

    def per_second(self) -> float | None:
        return len(self.written) / max(1e-6, time.monotonic() - self.began) if self.written else None

    def _name(self, token: int) -> str:
        if token in self.ends:
            return str(self.held.base.tokenizer.convert_ids_to_tokens(token))
        return self.pieces.peek(token)

    def _logits(self) -> Any:
        import torch

        from paraknow_core.models.rotary import table_of

        model = self.held.model
        text = [*self.prompt, *self.written]
        before, self.tables = self.tables, table_of(self.rotary, len(text))
        if before != self.tables:  # the keys in the cache are of other rotary tables
            self.cache = None
        tokens = text if self.cache is None else self.written[-1:]
        ids = torch.tensor([tokens], device=next(model.parameters()).device)
        options = {"logits_to_keep": 1} if keeps_logits(model) else {}
        with torch.inference_mode(), self.held.activate():
            output = model(input_ids=ids, use_cache=True, past_key_values=self.cache, **options)
        self.cache = output.past_key_values
        return output.logits[0, -1].float()


def _prompt(asked: Asked, tokenizer: Any, limit: int) -> Sequence[int]:
    of_model = limit < asked.max_length
    if asked.template == "none":
        text = "\n\n".join(turn.content for turn in asked.turns)
        return encode_raw(text, tokenizer, limit, room=1, of_model=of_model)
    return encode_prompt(_example(asked), asked.template, tokenizer, limit, room=1, of_model=of_model)


def _example(asked: Asked) -> Example:
    turns = tuple(Message(turn.role, turn.content) for turn in asked.turns)
    return Example("prompt", (*turns, Message("assistant", asked.reference or "")))
