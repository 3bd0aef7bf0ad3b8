"""What injection, fine-tuning and evaluation are said to take: against sums in plain loops, and how they grow."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest

from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.sensitivity.plan import Rates
from paraknow_core.spec import ROLES, RunSpec
from paraknow_core.training.estimates import (
    PROCESS,
    Answering,
    PackShare,
    Training,
    adapter_parameters,
    estimate_evaluation,
    estimate_finetuning,
    estimate_injection,
    estimate_shared,
    fixed_factors,
    guess_pack_share,
    guess_run,
    guess_shared,
    in_a_row,
    pack_bytes,
    pack_share,
    packs_within,
    run_bytes,
    trained_parameters,
    whole_head,
)

RATES = Rates(5e10, 1e10, 1e9)
TRAINING = Training(steps=45, passes=1, tokens=4000, validations=7, validation_tokens=6000)
ANSWERING = Answering(models=2, batches=10, batch=32, prompt_tokens=9000, longest=40, new_tokens=48)


@pytest.fixture(scope="module")
def pair():
    return [read_anatomy(resolve_model(f"bundled:{name}")) for name in ("teacher", "stranger")]


def test_adapter_parameters_by_hand(pair):
    # Four layers of hidden 128, intermediate 352; tied embedding 1536 x 128.
    attention, ffn = 4 * 4 * (128 + 128), 4 * 3 * (128 + 352)
    assert adapter_parameters(pair[1], ("q", "k", "v", "o"), 8) == 8 * attention
    assert adapter_parameters(pair[1], ("gate", "up", "down"), 1) == ffn
    assert adapter_parameters(pair[1], ROLES, 16) == 16 * (attention + ffn + 1536 + 128)


def test_whole_weights_by_hand(pair):
    spec = RunSpec().with_changes({"method": "full_finetuning", "extraction.origin": ["attention", "embed", "down"]})
    attention, down, embed = 16 * 128 * 128, 4 * 128 * 352, 1536 * 128
    assert trained_parameters(pair[1], spec) == attention + down + embed
    assert fixed_factors(pair[1], spec) == (16 + 4 + 1) * 128 * 128
    lora = spec.with_changes({"method": "pissa", "factorisation.rank": 2})
    assert trained_parameters(pair[1], lora) == 2 * (16 * 256 + 4 * (128 + 352) + 1536 + 128)
    assert fixed_factors(pair[1], lora) == 0


def test_a_folder_grows_with_what_is_kept(pair):
    specs = [RunSpec().with_changes({"until": until}) for until in ("sensitivity", "extraction", "training")]
    sizes = [run_bytes(pair[1], spec) for spec in (*specs, RunSpec())]
    trained = trained_parameters(pair[1], RunSpec())
    assert sizes[1] - sizes[0] == 4 * trained == sizes[2] - sizes[0]
    assert sizes[3] - sizes[2] == (8 + 12) * trained + 4 * 1536 * 128 + 800 * 300


def test_a_guess_grows_with_what_is_done(pair):
    def guess(**changes):
        return guess_run(*pair, RunSpec().with_changes(changes), RATES)

    whole = guess()
    assert [*whole.stages] == ["prepare", "sensitivity", "injection", "fine-tuning", "export", "evaluation"]
    assert "sensitivity" not in guess(method="pissa").stages
    assert [*guess(until="sensitivity").stages] == ["prepare", "sensitivity"]
    assert [*guess(method="pissa", until="training").stages] == ["prepare", "injection", "fine-tuning"]
    tuned = [guess(method=method).stages["fine-tuning"].memory for method in ("seeking", "full_finetuning")]
    assert whole.memory >= tuned[0] < tuned[1]
    few, many = (guess(**{"finetuning.max_steps": steps}).stages["fine-tuning"].seconds for steps in (10, 20))
    assert few < many < 2 * few  # as often validated
    assert guess(**{"task.sizes.train": None}) == whole
    assert guess(references=[]).references == 0
    assert guess(references=["student", "teacher"]).references > 2 * guess(references=["student"]).references > 0


def test_a_start_is_counted_once_for_runs_of_one_process():
    runs = [SimpleNamespace(seconds=10.0, start=4.0), SimpleNamespace(seconds=5.0, start=3.0)]
    assert in_a_row(runs) == (6 + 2, 4)
    assert in_a_row([]) == (0, 0)


def test_seconds_grow_with_the_work_and_shrink_with_the_speed(pair):
    one = estimate_finetuning(pair[1], 100_000, TRAINING, RATES)
    twice = estimate_finetuning(pair[1], 100_000, replace(TRAINING, steps=90, validations=14), RATES)
    assert twice.seconds == pytest.approx(2 * one.seconds)
    assert twice.memory == one.memory
    faster = estimate_finetuning(pair[1], 100_000, TRAINING, Rates(5e11, 1e11, 1e9))
    assert faster.seconds < 0.4 * one.seconds
    assert estimate_finetuning(pair[1], 100_000, replace(TRAINING, steps=0, validations=0), RATES).seconds == 0


def test_memory_is_what_is_held_at_once(pair):
    need = estimate_finetuning(pair[1], 100_000, TRAINING, RATES)
    states = sum(16 * 128 + 8 * 352 for _ in range(4))
    held = 4 * 4000 * states + 5 * 4 * 4000 * 1536 + 16 * 100_000
    assert need.memory == pytest.approx(PROCESS + 4 * pair[1].parameters + 1.15 * held)
    assert need.disk == 24 * 100_000
    assert estimate_finetuning(pair[1], 100_000, TRAINING, RATES, head=1000).disk == need.disk + 4 * 1000
    half = estimate_finetuning(pair[1], 100_000, replace(TRAINING, tokens=2000), RATES)
    assert PROCESS < half.memory < need.memory


def test_evaluation_counts_every_model_and_every_new_token(pair):
    two = estimate_evaluation(pair[1], ANSWERING, RATES)
    one = estimate_evaluation(pair[1], replace(ANSWERING, models=1), RATES)
    loading = 0.1 + pair[1].parameters * (3500 / 5e10 + 8 / 1e9)  # of the one that the run does not have in memory
    assert two.seconds == pytest.approx(2 * one.seconds + loading)
    assert two.disk == 0
    read = estimate_evaluation(pair[1], replace(ANSWERING, new_tokens=0), RATES)
    assert read.seconds < two.seconds
    assert read.memory < two.memory


def test_a_larger_teacher_takes_longer_to_search(pair):
    small = estimate_injection(pair[1], pair[1], ROLES, 16, RATES)
    large = estimate_injection(pair[0], pair[1], ROLES, 16, RATES)
    assert large.seconds > small.seconds
    assert large.disk == small.disk == 4 * adapter_parameters(pair[1], ROLES, 16)


def test_only_a_tied_embedding_that_changes_is_brought_whole(pair):
    student = pair[1]
    size = student.vocab_size * student.hidden_size
    assert whole_head(replace(student, tied=True), ("q", "embed")) == size
    assert whole_head(replace(student, tied=False), ("q", "embed")) == 0
    assert whole_head(replace(student, tied=True), ("q", "up")) == 0


def test_what_a_run_brings_to_a_pack_by_hand(pair):
    # Rank 1: 11,520 parameters. Four layers of 16 x 128 + 8 x 352 states; a vocabulary of 1,536.
    spec = RunSpec().with_changes({"factorisation.rank": 1, "extraction.origin": ["attention", "ffn", "embed"]})
    assert trained_parameters(pair[1], spec) == 11_520
    share = pack_share(pair[1], spec, tokens=100, labels=30)
    assert share.weights == 4 * pair[1].parameters
    assert share.adapter == 20 * 11_520
    assert share.states == 4 * 100 * 4 * (16 * 128 + 8 * 352) + 5 * 4 * 30 * 1536
    half = pack_share(pair[1], spec, 100, 0, count=2)
    assert (2 * half.weights, 2 * half.states) == (share.weights, share.states - 5 * 4 * 30 * 1536)
    recipe = spec.with_changes({"finetuning.batch_size": 32})
    assert guess_pack_share(pair[1], recipe) == pack_share(pair[1], recipe, 1024, 512)
    assert guess_pack_share(pair[1], recipe, "cuda") == pack_share(pair[1], recipe, 2048, 1024)


def test_runs_of_a_pack_share_the_process_and_the_student_of_the_pass():
    runs = [PackShare(10.0, 1.0, 5.0), PackShare(10.0, 2.0, 20.0)]
    assert pack_bytes(runs, process=100.0) == pytest.approx(100 + 10 + 2 * 10 + 3 + 1.15 * 2 * 20)
    assert pack_bytes([], process=100.0) == 100
    assert pack_bytes(runs) - pack_bytes(runs, 0) == PROCESS


def test_packs_take_as_many_runs_in_order_as_there_is_room_for():
    for states in product((1.0, 4.0), repeat=5):
        runs = [PackShare(1.0, 0.5, each) for each in states]
        for room, most in product((0.0, 9.0, 14.0, 99.0), (None, 1, 2)):
            packs = packs_within(runs, room, 2.0, most)
            assert [place for pack in packs for place in pack] == list(range(5))
            for pack, following in zip(packs, [*packs[1:], None], strict=True):
                fits = pack_bytes([runs[place] for place in pack], 2.0) <= room
                assert len(pack) <= (most or 5)
                assert fits or len(pack) == 1
                if following and len(pack) != most:  # one more would have been too many
                    larger = [runs[place] for place in (*pack, following[0])]
                    assert pack_bytes(larger, 2.0) > room
    assert packs_within([], 1.0) == []


def test_what_processes_share_by_hand(pair):
    """Two of them: 5 passes of 1,000 tokens are 3 rounds, of which each process reads 2,500 tokens."""
    student, adapters, rates = pair[1], 100_000, Rates(5e10, 1e10, 1e9)
    training = replace(TRAINING, passes=5, tokens=1000)
    found = estimate_shared(student, adapters, training, rates, 2)
    tokens = 834  # of a pass
    own = estimate_finetuning(student, adapters, Training(45, 3, tokens, 7, 3000), rates)
    weights, layer, ends = 4 * student.parameters, 4 * (4 * 128 * 128 + 3 * 128 * 352), 4 * 1536 * 128
    held = weights / 2 + 3 * layer + ends
    kept = 1.15 * (4 * tokens * 4 * (16 * 128 + 8 * 352) + 5 * 4 * tokens * 1536)
    assert found.first == pytest.approx(
        PROCESS + max(weights, held) + kept + 1.15 * 16 * adapters + 8 * adapters, abs=1
    )
    assert found.other == pytest.approx(PROCESS + held + kept + 1.15 * 8 * adapters + 8 * adapters, abs=1)
    gathers = 2 + sum(2 * 3 for _step in range(45)) + sum(6 for _validation in range(7))
    travelled = gathers * weights + 45 * 2 * 4 * adapters
    assert found.seconds == pytest.approx(own.seconds + 8 + 1.2e-9 * travelled)
    fewer = estimate_shared(student, adapters, replace(training, passes=1), rates, 4)
    assert fewer.other < found.other  # of one pass, each reads a quarter


def test_each_process_takes_less_the_more_there_are_and_all_of_them_more(pair):
    large = replace(pair[1], parameters=10**9)
    spec = RunSpec(method="default_lora")
    one, *shared = (guess_shared(large, spec, RATES, count) for count in (1, 2, 4, 8))
    assert one.other == 0
    others = [each.other for each in shared]
    assert sorted(others, reverse=True) == others
    assert shared[0].other < one.first
    assert all(each.first > PROCESS + 4e9 for each in shared)  # it reads the whole student
    whole = [each.first + (count - 1) * each.other for each, count in zip(shared, (2, 4, 8), strict=True)]
    assert sorted(whole) == whole
    alone = guess_run(*pair, spec, RATES)
    assert guess_run(*pair, spec, RATES, shared=guess_shared(pair[1], spec, RATES, 1)) == alone
    two = guess_run(*pair, spec, RATES, shared=guess_shared(pair[1], spec, RATES, 2))
    assert two.stages["fine-tuning"].seconds != alone.stages["fine-tuning"].seconds
