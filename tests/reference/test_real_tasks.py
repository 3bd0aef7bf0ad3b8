"""Real task files are read as they are, and their encoding gives the sensitivities of an independent reference."""

import json

from paraknow_core.spec import SensitivitySpec, SplitSizes, TaskSpec
from paraknow_core.tasks.examples import load_task
from paraknow_core.tasks.formats import read_examples
from paraknow_core.tasks.templates import encode
from tests.tasks.test_examples import load, sizes


def test_real_folders(shared):
    gsm = load(shared / "data" / "gsm8k", sizes=SplitSizes(train=None, validation=100, test=None))
    assert (sizes(gsm), gsm.scorers) == ({"train": 1900, "validation": 100, "test": 1319}, ("number_match",))
    assert gsm.warnings == ()
    mmlu = load(shared / "data" / "mmlu", sizes=SplitSizes(train=None, validation=None, test=None))
    assert (sizes(mmlu), mmlu.scorers) == ({"train": 30, "validation": 93, "test": 860}, ("multiple_choice",))
    sni = load(shared / "data" / "super_ni" / "super_ni_data_1000.jsonl")
    assert (sizes(sni), sni.scorers) == ({"train": 600, "validation": 100, "test": 300}, ("exact_match", "rouge_l"))


def test_real_files_load_as_they_are(shared):
    counts = {
        "gsm8k/train_2000.jsonl": ("gsm8k", 2000),
        "gsm8k/test.jsonl": ("gsm8k", 1319),
        "super_ni/super_ni_data_1000.jsonl": ("chat_jsonl", 1000),
        "paper_seed_samples/sample_mmlu.jsonl": ("chat_jsonl", 32),
        "mmlu/test/anatomy_test.csv": ("mmlu", 135),
    }
    for name, (format, count) in counts.items():
        found, examples = read_examples(shared / "data" / name)
        assert (found, len(examples)) == (format, count)
    text = (shared / "data" / "shakespeare/tinyshakespeare.txt").read_text()
    assert "".join(e.text for e in read_examples(shared / "data" / "shakespeare/tinyshakespeare.txt")[1]) == text


def test_golden_seed_samples_in_file_order(shared):
    task = load_task(TaskSpec(source=str(shared / "golden" / "gsm_llama" / "seed_samples.jsonl")), train_only=True)
    assert len(task.seed_samples(SensitivitySpec(samples=16))) == 16


def test_golden_sensitivities_prove_the_encoding(shared):
    """Sums of |theta * gradient| of every parameter agree with the published algorithm's to 1e-6."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    golden = shared / "golden" / "gsm_llama"
    tokenizer = AutoTokenizer.from_pretrained(golden / "teacher")
    model = AutoModelForCausalLM.from_pretrained(golden / "teacher", dtype=torch.float32).eval()
    sums = dict.fromkeys((name for name, _ in model.named_parameters()), 0.0)
    for example in read_examples(golden / "seed_samples.jsonl")[1]:
        entry = encode(example, "tulu", tokenizer, 2048)
        assert entry.prefix_ok
        model.zero_grad()
        model(input_ids=torch.tensor([entry.input_ids]), labels=torch.tensor([entry.labels])).loss.backward()
        for name, parameter in model.named_parameters():
            sums[name] += (parameter * parameter.grad).abs().double().sum().item()
    expected = json.loads((golden / "expected.json").read_text())["sensitivity_sum"]
    assert set(sums) == set(expected)
    assert all(abs(sums[name] / value - 1) < 1e-6 for name, value in expected.items())
