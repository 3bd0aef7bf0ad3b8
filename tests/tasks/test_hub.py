"""Hub data sets: real in-memory data, real exception classes, no network."""

import importlib
import json

import datasets
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import constants, hf_api
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

from paraknow_core.errors import DataError
from paraknow_core.spec import SplitSizes, TaskSpec
from paraknow_core.tasks import hub
from paraknow_core.tasks.examples import load_task
from tests.models.fake_hub import serve as fake_hub

HTTP = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.split(".")[0])  # the hub client's own HTTP library
FORBIDDEN = HTTP.Response(403, request=HTTP.Request("GET", "https://hub"))
QA = {"question": [f"q{i}" for i in range(20)], "answer": [f"<<1+1=2>>2\n#### {i}" for i in range(20)]}


@pytest.fixture
def serve(monkeypatch):
    """Return a function that makes `load_dataset` give a value, or raise it, and notes how it was called."""
    calls = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # whatever the environment says

    def put(value):
        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs, datasets.config.HF_HUB_OFFLINE))
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return put


def load(offline=False, **options):
    return load_task(TaskSpec(**{"source": "hub:some/thing", **options}), offline=offline)


def test_questions_and_answers(serve):
    test = {key: [f"{text} t" for text in column] for key, column in QA.items()}
    calls = serve(DatasetDict(train=Dataset.from_dict(QA), test=Dataset.from_dict(test)))
    task = load(subset="main", revision="v1")
    ((args, kwargs, offline),) = calls
    assert (args, kwargs["revision"], kwargs["streaming"], offline) == (("some/thing", "main"), "v1", False, False)
    assert "trust_remote_code" not in kwargs
    assert {name: len(part) for name, part in task.splits.items()} == {"train": 18, "validation": 2, "test": 20}
    assert task.split("test")[3].reference == "2\n#### 3 t"
    assert task.split("test")[3].id == "test:4"
    assert (task.name, task.scorers) == ("some/thing", ("number_match",))


def test_a_folder_of_the_same_name_is_never_read_instead(serve, tmp_path, monkeypatch):
    calls = serve(DatasetDict(train=Dataset.from_dict(QA)))
    (tmp_path / "some" / "thing").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"task.source: 'hub:some/thing' given, but some/thing also lies"):
        load()
    assert not calls


def test_columns_are_mapped(serve):
    serve(DatasetDict(train=Dataset.from_dict({"q": ["a?"] * 5 + ["b?"] * 5, "gold": [f"x{i}" for i in range(10)]})))
    task = load(columns={"question": "q", "answer": "gold"})
    assert {e.question for part in task.splits.values() for e in part} == {"a?", "b?"}
    assert task.scorers == ("exact_match", "rouge_l")


@pytest.mark.parametrize(
    "choices, answer, letter",
    [
        (["0", "y", "z"], 0, "A"),
        (["x", "y", "z"], "B", "B"),
        (["x", "y", "z"], "x", "A"),
        (["x", "caf\u00e9"], "cafe\u0301", "B"),
        ({"text": ["x", "y"], "label": ["1", "2"]}, "2", "B"),
    ],
)
def test_choices_in_their_usual_layouts(serve, choices, answer, letter):
    rows = [{"question": f"q{i}", "choices": choices, "answer": answer} for i in range(4)]
    serve(DatasetDict(train=Dataset.from_list(rows), validation=Dataset.from_list(rows[:1] * 2)))
    task = load(sizes=SplitSizes(validation=0))
    (example, *_) = task.split("test")
    assert example.reference == letter
    assert example.question.endswith("Answer:")
    assert task.scorers == ("multiple_choice",)


def test_chat_and_text_columns(serve):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    serve(DatasetDict(train=Dataset.from_dict({"messages": [turns] * 9, "id": [str(i) for i in range(9)]})))
    with pytest.raises(DataError, match="nothing is left for the train split"):
        load()  # all the same: whatever is held out leaves train empty
    serve(DatasetDict(train=Dataset.from_dict({"text": [f"line {i}\n" for i in range(4000)]})))
    task = load(sizes=SplitSizes(train=None, validation=None, test=None))
    assert task.is_text and len(task.split("test")) >= 2
    joined = "".join(e.text for part in task.splits.values() for e in part)
    assert joined == "".join(f"line {i}\n" for i in range(4000))


@pytest.mark.parametrize(
    "problem, options, sentence",
    [
        (DatasetNotFoundError("Dataset 'some/thing' is a gated dataset on the Hub."), {}, "is gated; accept its terms"),
        (GatedRepoError("Access denied", response=FORBIDDEN), {}, "is gated; accept its terms"),
        (
            DatasetNotFoundError("Dataset 'some/thing' doesn't exist on the Hub or cannot be accessed."),
            {},
            "is not on the hub or is private",
        ),
        (DatasetNotFoundError("Revision 'v9' doesn't exist for dataset"), {"revision": "v9"}, "no revision 'v9'"),
        (ConnectionError("Couldn't reach 'some/thing' on the Hub"), {}, "the hub cannot be reached"),
        (HTTP.ConnectTimeout("timed out"), {}, "the hub cannot be reached"),
        (ConnectionError("Couldn't reach"), {"offline": True}, "is not in the local cache and the hub is switched off"),
        (OfflineModeIsEnabled("offline"), {}, "is not in the local cache and the hub is switched off"),
        (
            ValueError("BuilderConfig 'x' not found. Available: ['main', 'socratic']"),
            {"subset": "x"},
            "has no subset 'x'; set task.subset to one of main, socratic",
        ),
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['main', 'socratic']"),
            {},
            "has several subsets; set task.subset to one of main, socratic",
        ),
        (RuntimeError("Dataset scripts are no longer supported, but found thing.py"), {}, "a loading script, which is"),
        (OSError(28, "No space left on device"), {}, "no space is left"),
        (datasets.exceptions.DatasetGenerationError("hf_secrettoken"), {}, "cannot be read (DatasetGenerationError)"),
    ],
)
def test_every_failure_is_a_sentence(serve, problem, options, sentence):
    serve(problem)
    with pytest.raises(DataError) as error:
        load(**options)
    assert sentence in str(error.value)
    assert str(error.value).startswith("some/thing: ")
    assert "secret" not in str(error.value)


def test_offline_is_only_for_the_call(serve):
    calls = serve(DatasetDict(train=Dataset.from_dict(QA)))
    before = datasets.config.HF_HUB_OFFLINE
    load(offline=True)
    assert calls[0][2] is True
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_real_call_offline_says_so():
    with pytest.raises(DataError, match="nobody/nothing-here: is not in the local cache and the hub is switched off"):
        load(source="hub:nobody/nothing-here", offline=True)


@pytest.mark.parametrize(
    "data, options, sentence",
    [
        ({"a": [1], "b": [2]}, {}, "some/thing: unknown layout with keys a, b; write each line as"),
        (QA, {"columns": {"question": "none"}}, "task.columns.question is 'none', which is not a column"),
        (QA, {"columns": {"prompt": "question"}}, "unknown key 'prompt'; known keys are question"),
        ({"question": ["q"], "answer": [[3]]}, {}, "train row 1: 'answer' is list; it must be text"),
        ({"question": ["q", "r"], "answer": ["a", None]}, {}, "train row 2: 'answer' is null; fill it in or remove"),
        ({"question": ["q", "r"], "answer": [1.0, float("nan")]}, {}, "train row 2: 'answer' is NaN; fill it in"),
        (
            {"question": ["q"], "answer": [2], "choices": [["x", "y", "z"]]},
            {},
            "train row 1: the answer 2 may be a pos",
        ),
        ({"question": ["q"], "answer": [7], "choices": [["x", "y"]]}, {}, "the answer 7 names none of 2 choices"),
        ({"question": ["q"], "answer": [0], "choices": ["xy"]}, {}, "the choices must be a list"),
        ({"text": [3]}, {}, "'text' is not text"),
        (QA, {"source": "hub:noowner"}, "write hub:OWNER/NAME"),
        (QA, {"source": "hub:../../etc"}, "write hub:OWNER/NAME"),
    ],
)
def test_data_that_does_not_fit(serve, data, options, sentence):
    serve(DatasetDict(train=Dataset.from_dict(data)))
    with pytest.raises(DataError) as error:
        load(**options)
    assert sentence in str(error.value)


def test_splits_are_found_by_name(serve):
    part = Dataset.from_dict(QA)
    serve(DatasetDict(auxiliary_train=part, dev=part.select([0]), test_hard=part.select([1])))
    assert {name: len(p) for name, p in load().splits.items()} == {"train": 18, "validation": 1, "test": 1}
    serve(DatasetDict(first=part, second=part))
    with pytest.raises(DataError, match="its splits are first, second"):
        load()
    serve(DatasetDict(train=part.select([])))
    with pytest.raises(DataError, match="holds no rows"):
        load()


def test_large_splits_are_read_in_part(serve, monkeypatch):
    monkeypatch.setattr(hub, "MOST_ROWS", 10)
    serve(DatasetDict(train=Dataset.from_dict(QA), test=Dataset.from_dict(QA).select([19])))
    task = load(sizes=SplitSizes(train=5, validation=1))
    assert len(task.split("train")) == 5
    assert "only the first 10 of 20 rows of train were read" in task.warnings
    assert len(load(sizes=SplitSizes(train=None, validation=0)).split("train")) == 19


def test_a_cached_copy_of_another_commit_is_not_served_silently(serve, tmp_path):
    commit, other = "a" * 40, "b" * 40
    folder = tmp_path / commit
    Dataset.from_dict(QA).save_to_disk(folder)
    serve(DatasetDict(train=Dataset.load_from_disk(str(folder))))
    assert load(revision=commit).revision == commit
    assert "revision 'v1' was read as commit aaaaaaaa" in load(revision="v1").warnings[0]
    with pytest.raises(DataError, match="only commit aaaaaaaa is in the local cache, not bbbbbbbb"):
        load(revision=other)


@pytest.mark.parametrize(
    "broken",
    [
        "portal",
        "portal as JSON",
        "cut JSON",
        "a list",
        "odd types",
        "not UTF-8",
        "deep",
        "a redirect to a portal",
        "429",
        "503",
        "hang up",
    ],
)
def test_what_is_no_hub_is_a_sentence(tmp_path, monkeypatch, broken):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    for place in (datasets.config, constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    with fake_hub(tmp_path, "some/thing", broken) as (address, asked):
        for place in (datasets.config, constants):
            monkeypatch.setattr(place, "HF_ENDPOINT" if place is datasets.config else "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hf_api.api, "endpoint", address)
        with pytest.raises(DataError, match="^some/thing: .*;") as refused:
            load()
    assert asked
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "problem",
    [
        TypeError("x"),
        KeyError("id"),
        AttributeError("x"),
        RecursionError(),
        EOFError(),
        json.JSONDecodeError("x", "y", 0),
        AssertionError(),
        IndexError("secret"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "y"),
    ],
)
def test_what_the_library_cannot_take_apart_is_a_sentence(serve, problem):
    serve(problem)
    with pytest.raises(DataError, match="^some/thing: .*;") as refused:
        load()
    assert "secret" not in str(refused.value)
