"""Make the bundled models again: `python -m paraknow_core.demo.build`.

tokenizer -> kin -> teacher (grown from kin) -> stranger -> manifest.json. A model that the manifest already holds, made
by the same recipe and with unchanged weights, is kept, so an interrupted build goes on where it stopped.
"""

import argparse
import hashlib
import itertools
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
import transformers
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from paraknow_core.demo.alignment import alignment
from paraknow_core.demo.corpus import documents
from paraknow_core.demo.knowledge import facts, share_of_facts
from paraknow_core.demo.recipes import (
    HEAD_DIM,
    RECIPES,
    STUDENT_SIZES,
    TEACHER_SIZES,
    TOKENIZER_DOCUMENTS,
    TOKENIZER_MIXTURE,
    VOCAB_SIZE,
    Recipe,
    quick,
)
from paraknow_core.demo.scoring import score
from paraknow_core.demo.tasks import TASKS
from paraknow_core.demo.tokenizer import BOS, EOS, PAD, save_tokenizer, train_tokenizer
from paraknow_core.demo.training import batches, train
from paraknow_core.demo.widening import widen
from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.disk import file_digest as sha256

MODELS = Path(__file__).parent / "models"
QUICK_EXAMPLES = 8
SNAPSHOT_STEPS = 500  # an unfinished model can be looked at; the manifest lists it only when it is done


def new_student(vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A freshly initialised student."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        **STUDENT_SIZES,
        num_key_value_heads=STUDENT_SIZES["num_attention_heads"],
        head_dim=HEAD_DIM,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def load(folder: Path, device: str = "cpu") -> LlamaForCausalLM:
    """Load a bundled model as float32, in evaluation mode."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    return model.to(device).eval()


def save_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a model folder: fp16 weights, configurations, tokenizer. Each file is replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        fresh = Path(name)
        half = LlamaForCausalLM(model.config).to(torch.float16)
        half.load_state_dict({key: value.half().cpu() for key, value in model.state_dict().items()})
        half.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False)
        half.save_pretrained(fresh)
        save_tokenizer(tokenizer, fresh)
        for file in fresh.iterdir():
            file.chmod(0o644)
            file.replace(folder / file.name)


def start(recipe: Recipe, tokenizer: Tokenizer, out: Path) -> LlamaForCausalLM:
    """The untrained model of a recipe: new, or grown from its parent's shipped weights."""
    if recipe.parent is None:
        return new_student(tokenizer.get_vocab_size(), recipe.seed)
    hidden, intermediate, layers, heads = TEACHER_SIZES.values()
    return widen(load(out / recipe.parent), hidden, intermediate, heads, layers, recipe.positions, recipe.seed)


def run_stages(recipe: Recipe, tokenizer: Tokenizer, out: Path, device: str, progress: Progress) -> list[dict]:
    """Train a model, stage by stage, and save it.

    Args:
        recipe: what to make.
        tokenizer: the bundled one.
        out: folder of all models; a parent lies in it already.
        device: where to train, for example "cpu" or "cuda".
        progress: gets one bar a stage.

    Returns:
        What each stage took.
    """
    folder = out / recipe.name
    told = facts() if recipe.facts_share == 1 else share_of_facts(recipe.facts_share, recipe.seed)
    model, costs = start(recipe, tokenizer, out), []
    for number, stage in enumerate(recipe.stages):
        bar = progress.add_task(f"{recipe.name} {number + 1}", total=stage.steps, loss=float("nan"))

        def on_step(step: int, loss: float, bar: TaskID = bar, model: LlamaForCausalLM = model) -> None:
            progress.update(bar, completed=step, loss=loss)
            if step % SNAPSHOT_STEPS == 0:
                save_model(model, tokenizer, folder)

        seed = recipe.seed + 1000 * number  # later stages read other documents
        stream = batches(documents(stage.mixture, told, seed), tokenizer, recipe.batch_tokens, seed)
        cost = train(model.to(device), stream, stage.steps, stage.peak_lr, on_step=on_step)
        costs.append(asdict(cost) | {"seconds": round(cost.seconds, 1), "device": torch.device(device).type})
        save_model(model, tokenizer, folder)
        model = load(folder, device)
    return costs


def describe(recipe: Recipe, tokenizer: Tokenizer, out: Path, device: str, limit: int | None) -> dict:
    """Score a saved model, and compare it with the parent it was grown from.

    Args:
        recipe: of the model.
        tokenizer: the bundled one.
        out: folder of all models.
        device: where to compute the scores.
        limit: only this many test examples a task.

    Returns:
        The model's entry in the manifest, less what only training knows; all measured with the saved weights.
    """
    weights = out / recipe.name / "model.safetensors"
    shipped = load(out / recipe.name, device)
    entry = {
        "sha256": sha256(weights),
        "bytes": weights.stat().st_size,
        "parameters": sum(p.numel() for p in shipped.parameters()),
        "recipe": recipe.as_dict(),
        "scores": {task: score(shipped, tokenizer, task, "test", limit) for task in TASKS},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    if recipe.parent is not None:
        parent = load(out / recipe.parent)
        entry["parent_sha256"] = sha256(out / recipe.parent / "model.safetensors")
        entry["alignment"] = alignment(parent, shipped.cpu(), tokenizer, recipe.positions, limit=limit)
    return entry


def is_made(entry: dict | None, recipe: Recipe, folder: Path, entries: dict) -> bool:
    """Whether the manifest's entry is of this recipe, these weights, and this parent."""
    weights = folder / "model.safetensors"
    if entry is None or entry["recipe"] != recipe.as_dict() or not weights.exists():
        return False
    if recipe.parent is not None and entry["parent_sha256"] != entries[recipe.parent]["sha256"]:
        return False
    return sha256(weights) == entry["sha256"]


def build(out: Path, device: str = "cpu", is_quick: bool = False, seed: int = 0) -> dict:
    """Make all bundled models.

    Args:
        out: where the model folders and manifest.json go.
        device: where to train.
        is_quick: a few steps and examples only, to see that everything runs.
        seed: added to the seed of every recipe; 0 for the bundled models.

    Returns:
        The manifest.
    """
    out.mkdir(parents=True, exist_ok=True)
    recipes = [replace(recipe, seed=recipe.seed + seed) for recipe in RECIPES]
    recipes = [quick(recipe) for recipe in recipes] if is_quick else recipes
    limit = QUICK_EXAMPLES if is_quick else None
    sample = documents(TOKENIZER_MIXTURE, facts(), "tokenizer")
    texts = (d.text for d in itertools.islice(sample, TOKENIZER_DOCUMENTS // 10 if is_quick else TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(texts, VOCAB_SIZE)
    vocabulary = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    earlier = json.loads((out / "manifest.json").read_text("utf-8")) if (out / "manifest.json").exists() else {}
    kept = earlier.get("models", {}) if earlier.get("tokenizer_sha256") == vocabulary else {}
    manifest: dict = {"tokenizer_sha256": vocabulary, "quick": is_quick, "models": {}}
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        for recipe in recipes:
            entry = kept.get(recipe.name)
            if not is_made(entry, recipe, out / recipe.name, manifest["models"]):
                costs = run_stages(recipe, tokenizer, out, device, progress)
                entry = describe(recipe, tokenizer, out, device, limit) | {"cost": costs}
            manifest["models"][recipe.name] = entry
            write_atomic(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return manifest


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m paraknow_core.demo.build", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the models (default: the bundled ones)")
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda, mps (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that everything runs")
    parser.add_argument("--seed", type=int, default=0, help="added to every recipe's seed (default: 0)")
    options = parser.parse_args()
    if options.quick and options.out is None:
        parser.error("--quick makes useless models and would replace the bundled ones; say where with --out DIR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    manifest = build(options.out or MODELS, options.device, options.quick, options.seed)
    for name, entry in manifest["models"].items():
        print(name, json.dumps(entry["scores"]))


if __name__ == "__main__":
    main()
