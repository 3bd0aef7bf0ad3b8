"""What visitors may touch: everything on one's own machine, little when it is opened up."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from paraknow_core.engines.service import Service
from paraknow_core.errors import DataError, ParaknowError
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.spec import ModelSpec, RunSpec, SplitSizes, TaskSpec, parse_yaml
from paraknow_core.tasks import examples
from paraknow_core.tasks.examples import load_task
from paraknow_core.workbench import desk, playground
from paraknow_core.workbench.access import ADDRESS_VARIABLE, DEMO_VARIABLE, HUB_VARIABLE, ROOTS_VARIABLE, access
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.requests import KINDS
from paraknow_core.workbench.playground.protocol import Asked, Slot, Turn


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "cache")


def test_on_loopback_everything_may_be_named(place):
    free = access(place)
    assert not free.restricted
    free.check_source("/etc/passwd")


def test_an_open_server_reads_only_allowed_folders(place, tmp_path, monkeypatch):
    allowed = tmp_path / "models"
    (allowed / "one").mkdir(parents=True)
    monkeypatch.setenv(ROOTS_VARIABLE, str(allowed))
    opened = access(place, "0.0.0.0")
    assert opened.open_to == "0.0.0.0"
    for source in ("bundled:teacher", str(allowed / "one"), str(place.uploads / "x"), f" {allowed / 'one'}\t"):
        opened.check_source(source)
    link = allowed / "link"
    link.symlink_to("/etc")
    for source in ("/etc/passwd", "../x/y/z", f"{allowed}/../other", str(link / "passwd"), "~root/x", "plain"):
        with pytest.raises(DataError, match="outside the folders"):
            opened.check_source(source)


def test_a_hub_data_set_with_the_name_of_a_folder_here_is_a_path(place, tmp_path, monkeypatch):
    (tmp_path / "priv" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HUB_VARIABLE, "1")
    opened = access(place, "0.0.0.0")
    opened.check_source("hub:other/data")
    with pytest.raises(DataError, match="outside the folders"):
        opened.check_source("hub:priv/data")


def test_what_a_draft_names_already_does_not_keep_the_rest_from_being_changed(place):
    opened = access(place, "0.0.0.0")
    before = RunSpec().with_changes({"teacher.source": "/one", "student.source": "/two"})
    opened.check_spec(before.with_changes({"teacher.source": "bundled:teacher"}), before)
    with pytest.raises(DataError, match="outside the folders"):
        opened.check_spec(before.with_changes({"teacher.source": "/three"}), before)


def test_helpers_know_the_address_from_the_environment(place, monkeypatch):
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    assert not access(place).restricted
    for address in ("0.0.0.0", ""):
        monkeypatch.setenv(ADDRESS_VARIABLE, address)
        assert access(place).restricted


def test_an_empty_address_means_every_address(place):
    assert access(place, "").open_to


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher.source": "owner/name"}, "teacher: 'owner/name' given; in demo mode only bundled"),
        ({"task.test_source": "/data/x.jsonl"}, "task.test_source"),
        ({"sensitivity.task": "/data/x.jsonl"}, "sensitivity.task"),
        ({"finetuning.epochs": 6}, "at most 5"),
        ({"task.sizes.train": None}, "task.sizes.train"),
        ({"sensitivity.samples": 65}, "at most 64"),
    ],
)
def test_demo_mode_is_bundled_and_small(place, monkeypatch, changes, message):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    demo = access(place)
    demo.check_spec(RunSpec())
    with pytest.raises(DataError, match=message):
        demo.check_spec(RunSpec().with_changes(changes))


def test_what_cannot_be_a_path_is_refused_without_a_traceback(place, tmp_path):
    opened = access(place, "0.0.0.0")
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for source in ("a\0b", "/" + "x" * 5000, "x" * 5000 + "/y", "~nobody-here/x", str(circle), "", " "):
        with pytest.raises(DataError, match="outside the folders"):
            opened.check_source(source)


def test_demo_mode_refuses_uploads_deletes_and_long_queues(place, monkeypatch):
    free = access(place)
    free.check_upload()
    free.check_delete()
    free.check_amount(1000, 1000)
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    demo = access(place)
    demo.check_amount(12, 12)
    for refused in (demo.check_upload, demo.check_delete, lambda: demo.check_amount(20, 5)):
        with pytest.raises(DataError, match="in demo mode"):
            refused()


@pytest.mark.parametrize(
    "changes",
    [
        {"task.sizes.validation": None},
        {"task.max_new_tokens": 4000},
        {"finetuning.batch_size": 4096},
        {"finetuning.validations": 500},
    ],
)
def test_demo_mode_limits_whatever_costs_time(place, monkeypatch, changes):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    with pytest.raises(DataError, match="at most"):
        access(place).check_spec(RunSpec().with_changes(changes))


def test_an_open_server_reads_hub_ids_only_where_its_owner_says_so(place, monkeypatch):
    ids = ("owner/name", "hub:owner/name", " hub:owner/name\n")
    opened = access(place, "0.0.0.0")
    assert not opened.hub_allowed
    for source in ids:
        with pytest.raises(DataError, match="ui --allow-hub"):
            opened.check_source(source)
    monkeypatch.setenv(HUB_VARIABLE, "1")
    opened = access(place, "0.0.0.0")
    assert opened.hub_allowed
    for source in ids:
        opened.check_source(source)
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    with pytest.raises(DataError, match="in demo mode only bundled"):
        access(place, "0.0.0.0").check_source("owner/name")
    assert not access(place, "0.0.0.0").hub_allowed


DECORATIONS = (
    " {}",
    "{} ",
    "\t{}",
    "\u00a0{}",
    "\u3000{}\n",
    "\x1f{}",
    "\ufeff{}",
    "\u200b{}",
    "./{}",
    "/{}",
    "{}/",
    "{}/.",
    "file://{}",
    "bundled:{}",
    "bundled: {}",
    "hub:{}",
    "hub: {}",
    "HUB:{}",
    "hub:hub:{}",
    "bundled:..{}",
    "hub:x/..{}",
    "~{}",
    "$HOME{}",
    "{}\0",
    "\\{}",
    "C:{}",
    "//{}",
    "a/../{}",
    "%2e%2e{}",
    "{}?token",
)
SECRET_WORD = "only the owner reads this"
PRIVATE_TASKS = {"source": " ~/private", "test_source": "\t/etc", "judge": {"source": "~/private"}}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A home with private things beside a folder that is shared; returns what must never be opened by a visitor."""
    home, shared, here = tmp_path / "home", tmp_path / "home" / "shared", tmp_path / "here"
    lines = json.dumps({"question": "What?", "answer": SECRET_WORD}) + "\n"
    for folder in (home / "private", shared / "data", here / "owner" / "name", here / "priv", here / "hub:x"):
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text(lines)
        (folder / "config.json").write_text("{}")
    (shared / "data" / "train.jsonl").write_text(lines.replace(SECRET_WORD, "all may read this"))
    (shared / "link").symlink_to(home / "private")
    (shared / "files").mkdir()
    (shared / "files" / "train.jsonl").symlink_to(home / "private" / "train.jsonl")
    (shared / "deep" / "train").mkdir(parents=True)
    (shared / "deep" / "train" / "a.jsonl").symlink_to(home / "private" / "train.jsonl")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(ROOTS_VARIABLE, str(shared))
    monkeypatch.chdir(here)
    return tmp_path


def named_in(house) -> list[str]:
    home = house / "home"
    return [
        "~/private",
        "~/private/train.jsonl",
        f"{home}/private",
        f"{home}/private/train.jsonl",
        "owner/name",
        "priv",
        "priv/train.jsonl",
        "hub:x",
        "~/shared/link",
        "~/shared/files",
        "~/shared/deep",
        "~/shared/../private",
        "~/shared/data",
        f"{home}/shared/data/train.jsonl",
        "../home/private",
        "~",
        "/",
        ".",
        "owner/../priv",
    ]


def what_readers_open(source: str) -> list[Path]:
    """Return the folders and files that a model, a task and a test split of this name would be read from."""
    found: list[Path] = []
    with suppress(ParaknowError):
        found.append(resolve_model(source, offline=True, weights=False).folder)

    def note(path: Path, *_others: object) -> object:
        if path.exists():
            found.extend([path, *(path.rglob("*") if path.is_dir() else ())])
        raise DataError("noted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "read_path", note)
        for change in ({"source": source}, {"test_source": source}):
            with suppress(ParaknowError, ValueError):
                load_task(TaskSpec(**change), offline=True)
    return [path.resolve() for path in found]


def check_one(opened, source: str) -> bool:
    """Hold that what is let through is read from a root, and return whether it was."""
    try:
        opened.check_source(source)
    except DataError:
        return False
    for path in what_readers_open(source):
        assert any(path.is_relative_to(root) for root in opened.roots), (source, path)
    return True


def test_what_is_let_through_is_read_from_a_root_however_it_is_written(place, house):
    opened = access(place, "0.0.0.0")
    opened = replace(opened, hub=True)
    sources = [way.format(name) for name in named_in(house) for way in ("{}", *DECORATIONS)]
    let = [source for source in sources if check_one(opened, source)]
    assert "~/shared/data" in let and " ~/shared/data" in let
    assert not [source for source in let if "private" in source and what_readers_open(source)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_whatever_the_text_what_is_let_through_is_read_from_a_root(place, house, data):
    parts = strategies.sampled_from(
        [
            *named_in(house),
            " ",
            "~",
            "/",
            "..",
            ".",
            "hub:",
            "bundled:",
            "teacher",
            "\0",
            "x",
            "\u00a0",
            "\u2028",
            "private",
            "shared",
            "owner",
            "name",
        ]
    )
    text = strategies.lists(parts | strategies.text(max_size=3), min_size=1, max_size=6).map("".join)
    check_one(replace(access(place, "0.0.0.0"), hub=True), data.draw(text))


def test_a_specs_sources_have_one_form_and_all_are_checked(place, house):
    opened = access(place, "0.0.0.0")
    assert RunSpec().with_changes({"teacher.source": " bundled:kin\u00a0"}).teacher.source == "bundled:kin"
    for key in ("teacher.source", "student.source", "task.source", "task.test_source", "sensitivity.task"):
        spec = RunSpec().with_changes({key: "\u3000 ~/private "})
        with pytest.raises(DataError, match="outside the folders"):
            opened.check_spec(spec)
    judged = RunSpec().with_changes({"task.judge": {"source": " ~/private"}})
    with pytest.raises(DataError, match=r"task\.judge"):
        opened.check_spec(judged)


@pytest.mark.parametrize("kind", [name for name, cls in KINDS.items() if cls.__module__ == requests.__name__])
def test_a_question_that_names_what_is_private_is_refused_wherever_it_names_it(place, house, kind):
    """Each field that can name a model, a task or a file does; no field of bare text is one that is read as such."""
    private = " ~/private"
    values = {
        ModelSpec: [ModelSpec(source=private)],
        TaskSpec: [TaskSpec(**{key: value}) for key, value in PRIVATE_TASKS.items()],
        Path: [Path(private)],
    }
    question, opened, tried = KINDS[kind], access(place, "0.0.0.0"), 0
    for name, field in question.model_fields.items():
        options = values.get(field.annotation, [])
        if field.annotation is RunSpec:
            options = [
                RunSpec().model_copy(update={key: value})
                for key in question.reads
                for value in values.get(RunSpec.model_fields[key.partition(".")[0]].annotation, [])
            ]
        for value in options:
            with pytest.raises(DataError, match="outside the folders"):
                opened.check_question(question.model_construct(**{name: value}))
            tried += 1
        assert options or "source" not in name and "path" not in name
    assert tried or kind in ("hub_cache", "adapter_change", "sensitivity_change", "causal_check")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sensitivity": {"selection": "manual", "ids": [str(i) for i in range(65)]}}, "sensitivity.ids: 65 given"),
        ({"mapping": {"strategy": "manual", "layers": [0] * 500}}, "mapping.layers: 500"),
        ({"task.source": " /data/mine.jsonl"}, "only bundled"),
        ({"task.source": "hub:a/b"}, "only bundled"),
        ({"task.judge": {"source": "~/judge"}}, "only bundled"),
    ],
)
def test_demo_limits_hold_whatever_way_a_spec_comes_in(place, monkeypatch, changes, message):
    spec = RunSpec().with_changes(changes)
    access(place).check_spec(spec)
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    demo = access(place)
    with pytest.raises(DataError, match=message):
        demo.check_spec(spec)
    with pytest.raises(DataError, match=message):
        demo.check_spec(parse_yaml(spec.to_yaml()), RunSpec())


def test_demo_limits_hold_for_questions_seeds_and_answers(place, monkeypatch):
    task = TaskSpec()
    large = requests.Task(task=task.model_copy(update={"sizes": SplitSizes(train=None)}))
    by_hand = {"selection": "manual", "ids": [str(i) for i in range(65)]}
    ids = requests.Seeds(spec=RunSpec().with_changes({"sensitivity": by_hand}), with_models=False)
    waiting = requests.Upload(path=place.uploads / "waiting-1.jsonl", columns={})
    slot = Slot(source="bundled:kin")
    asked = Asked(slots=[slot], turns=[Turn(content="2 + 2?")], max_new_tokens=129)
    monkeypatch.setattr(Service, "start", lambda _self: None)
    for question in (large, ids, waiting):
        access(place).check_question(question)
    access(place).check_limit("seeds", 100)
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    demo = access(place)
    demo.check_question(requests.Lengths(task=task, split="test", model=ModelSpec(source="bundled:kin")))
    demo.check_limit("seeds", 3)
    for question in (large, ids, waiting):
        with pytest.raises(DataError, match="in demo mode"):
            desk.ask(place, question)
    with pytest.raises(DataError, match="seeds: 4 given; in demo mode at most 3"):
        demo.check_limit("seeds", 4)
    with pytest.raises(DataError, match="max_new_tokens: 129 given; in demo mode at most 128"):
        playground.begin(place, asked)
    assert not (place.root / "playground").exists()
