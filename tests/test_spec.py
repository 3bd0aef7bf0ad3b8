"""The spec: strict, portable, and its mistakes told in one sentence."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from pydantic import ValidationError

from paraknow_core import spec as spec_module
from paraknow_core.errors import SpecError
from paraknow_core.files.naming import holds_secret
from paraknow_core.files.yaml_file import load_yaml
from paraknow_core.paths import Workspace
from paraknow_core.settings import load_settings
from paraknow_core.spec import (
    ROLES,
    ModelSpec,
    RunSpec,
    TaskSpec,
    normal_origin,
    parse_spec,
    parse_yaml,
    read_spec,
    roles_of,
)
from paraknow_core.workbench.draft import Draft


def test_yaml_round_trip_keeps_every_key():
    spec = RunSpec().with_changes({"mapping": {"strategy": "manual", "layers": [0, None, 2]}, "name": "é ünïcode"})
    assert parse_yaml(spec.to_yaml()) == spec
    assert parse_yaml("{}") == RunSpec()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("factorisation: {rnak: 4}", ["unknown key 'rnak' under factorisation", "lora_alpha, rank, split"]),
        ("rank: 4", ["unknown key 'rank'", "factorisation"]),
        ("factorisation: {rank: 0}", ["factorisation.rank", "0 given", "greater than or equal to 1"]),
        ("factorisation: {rank: '8'}", ["factorisation.rank", "'8' given"]),
        ("seed: true", ["seed", "True given"]),
        ("seed: 1\nseed: 2", ["line 2", "'seed' is given twice"]),
        ("teacher: {}", ["teacher.source", "missing"]),
        ("a: [1", ["not valid YAML at line"]),
        ("[1, 2]", ["not a mapping"]),
        ("1: 2", ["is not text"]),
        ("mapping: {strategy: manual}", ["layers and strategy manual belong together"]),
        ("mapping: {layers: [1]}", ["layers and strategy manual belong together"]),
        ("sensitivity: {ids: [a]}", ["ids and selection manual belong together"]),
        ("extraction: {origin: [ffn, foo]}", ["origin 'foo' is unknown", "attention"]),
        ("extraction: {origin: []}", ["extraction.origin"]),
        ("finetuning: {learning_rate: .nan}", ["finetuning.learning_rate"]),
        ("finetuning: {batch_size: 64, micro_batch_size: 5}", ["not a multiple", "5"]),
        ("version: 2", ["version", "2 given"]),
        ("method: magic", ["method", "'magic' given", "seeking"]),
        ("name: !!python/object:os.system x", ["not valid YAML"]),
    ],
)
def test_mistakes_are_told_in_one_sentence(text, words):
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, where="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_changes_by_dotted_key_are_validated():
    changed = RunSpec().with_changes({"factorisation.rank": 8, "task.sizes.test": None})
    assert changed.factorisation.rank == 8
    assert changed.task.sizes.test is None
    assert RunSpec().factorisation.rank == 16
    for key in ("factorisation.rnak", "nope", "seed.x"):
        with pytest.raises(SpecError, match="unknown key"):
            RunSpec().with_changes({key: 1})
    with pytest.raises(SpecError, match=r"factorisation\.rank"):
        RunSpec().with_changes({"factorisation.rank": -1})


@pytest.mark.parametrize(
    "changes",
    [
        *({"seed": 3}, {"factorisation.rank": 8, "factorisation.lora_alpha": 16}, {"task.judge": {"source": "a/b"}}),
        *(
            {"extraction.origin": ["q", "k", "v", "o"]},
            {"references": ("student", "student")},
            {"task.columns.text": "a"},
        ),
        *({"seed": True}, {"seed": None}, {"factorisation.rank": "8"}, {"name": "hf_" + "a1" * 12}, {"task": {}}),
        *({"mapping.strategy": "manual"}, {"finetuning.learning_rate": float("nan")}, {"name": {1, 2}}, {}),
    ],
    ids=repr,
)
def test_a_change_is_what_the_whole_spec_says(changes):
    def whole():
        data = RunSpec().model_dump(mode="json")
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            node = data
            for key in parents:
                node = node[key]
            node[last] = value
        return parse_spec(data)

    def answer(work):
        try:
            spec = work()
            return spec, repr(spec), spec.model_fields_set
        except SpecError as error:
            return str(error)

    assert answer(lambda: RunSpec().with_changes(changes)) == answer(whole)


def test_origin_expands_to_roles_in_order():
    assert parse_spec({"extraction": {"origin": ["down", "attention"]}}).extraction.roles == (
        "q",
        "k",
        "v",
        "o",
        "down",
    )
    assert len(RunSpec().extraction.roles) == 9


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["all", "attention"], ["all"]),
        (["attention", "all"], ["all"]),
        (["all", "all", "q", "head"], ["all"]),
        (["embedding", "ffn", "attention"], ["all"]),
        (list(reversed(ROLES)), ["all"]),
        (["q", "k", "v", "o"], ["attention"]),
        (["o", "ffn", "q"], ["ffn", "q", "o"]),
        (["q", "attention", "down", "down"], ["attention", "down"]),
        (["head", "embed", "gate"], ["embedding", "gate"]),
        (["down"], ["down"]),
    ],
)
def test_the_same_modules_are_written_in_one_way(given, kept):
    """However an origin is given, the draft, a file and an older run that mean the same modules are the same spec."""
    spec = parse_spec({"extraction": {"origin": given}})
    assert list(spec.extraction.origin) == kept
    assert spec.extraction.roles == roles_of(given)
    assert RunSpec().with_changes({"extraction.origin": given}) == spec
    older = RunSpec().to_yaml().replace("origin:\n  - all\n", f"origin: {json.dumps(given)}\n")
    assert json.dumps(given) in older
    assert parse_yaml(older) == spec
    assert Draft.model_validate({"spec": {"extraction": {"origin": given}}}).spec == spec


def test_an_origin_counts_as_whole_by_what_the_student_has():
    without_gate = [role for role in ROLES if role not in ("gate", "head")]
    assert normal_origin(["up", "down"], without_gate) == ("ffn",)
    assert normal_origin(without_gate, without_gate) == ("all",)
    assert normal_origin(["embed"], without_gate) == ("embedding",)
    assert normal_origin(["embed"]) == ("embed",)
    tied = [role for role in ROLES if role != "head"]
    assert normal_origin(["q", "k", "v", "o", "down"], tied) == ("attention", "down")
    assert normal_origin(["q", "down"], tied) == ("q", "down")


def test_a_scorer_or_reference_given_twice_counts_once():
    spec = parse_spec({"task": {"scorers": ["rouge_l", "exact_match", "rouge_l"]}, "references": ["student"] * 2})
    assert spec.task.scorers == ("rouge_l", "exact_match")
    assert spec.references == ("student",)


def test_files_that_are_no_specs(tmp_path):
    with pytest.raises(SpecError, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        read_spec(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_spec(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(SpecError, match="larger than 1 MB"):
        read_spec(tmp_path / "large.yaml")


def test_schema_names_every_section():
    properties = RunSpec.model_json_schema()["properties"]
    assert set(properties) == set(RunSpec.model_fields)
    assert RunSpec.model_json_schema()["additionalProperties"] is False


def bomb(levels: int = 9) -> str:
    """Aliases of aliases: a kilobyte that would be ten to the ninth values when written out."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]" for i in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text", [bomb(), "a: &a [*a]", "a: &a {b: *a}", "x: " + "9" * 5000, "x: 0x" + "f" * 20000, "x: \ud800", "\0"]
)
def test_a_yaml_bomb_is_a_sentence_at_once(text):
    with pytest.raises(SpecError, match="spec: "):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 30_000, "- " * 50_000, "? " * 50_000])
def test_a_text_that_nests_beyond_measure_does_not_end_the_process(text):
    code = "import sys\nfrom paraknow_core.spec import parse_yaml\ntry: parse_yaml(sys.stdin.read())\n"
    code += "except Exception as error: print(type(error).__name__)"
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "SpecError")


@pytest.mark.parametrize("key", ["teacher.source", "student.revision", "task.source", "task.test_source"])
@pytest.mark.parametrize(
    "secret", ["hf_abcdefghijklmnopqrstuvwxyz", "https://me:hf_secretsecretsecret@hub.example/a/b"]
)
def test_a_secret_is_refused_and_never_repeated(key, secret):
    with pytest.raises(SpecError, match="password or a token") as refused:
        RunSpec().with_changes({key: secret})
    assert "secret" not in str(refused.value)
    assert "hf_abc" not in str(refused.value)


ODD_YAML = [
    "name: !!bool x",
    "name: !!int x",
    "name: !!int ''",
    "name: !!int '-'",
    "name: !!float x",
    "name: !!timestamp x",
    "name: 2020-13-45",
    "name: !!binary 'é'",
    "name: !!binary abcd",
    "name: !!set {a, b}",
    "name: !!omap [a: 1]",
    "name: !!map x",
    "name: !!seq x",
    "name: !!str [a]",
    "name: !foo x",
    "name: =",
    "!!bool x: 1",
    "!!set {a}",
    "name: !!python/object/apply:os.system [ls]",
    "name: !!python/name:os.system",
    "seed: !!null x",
    "1: 2",
    "null: 2",
    "2020-01-01: 2",
    "? [a, b]\n: 3",
    "? {a: b}\n: 3",
    "<<: {name: x}",
    "x: &a {name: y}\n<<: *a",
    "name: *nobody",
    "name: x\nname: y",
    "finetuning: {max_steps: !!bool x}",
    "seed: .nan",
    "seed: .inf",
    "seed: 1e400",
    "--- a\n--- b",
    "%YAML 9.9\n---\nname: x",
    "\t",
    "",
    "a: b: c",
    "name: \x01",
    'name: "\\ud800"',
    "seed: " + "9" * 5000,
    "- 1",
    "3",
]


@pytest.mark.parametrize("text", ODD_YAML)
def test_whatever_a_tag_a_key_or_a_value_is_a_sentence_comes_back(text, tmp_path):
    with pytest.raises(SpecError, match="^spec: .+"):
        parse_yaml(text)
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"^spec\.yaml: "):
        read_spec(tmp_path / "spec.yaml")


def test_a_date_without_quotes_is_a_name():
    assert parse_yaml("name: 2020-01-02").name == "2020-01-02"


def test_the_sentence_about_a_tag_names_its_place():
    with pytest.raises(SpecError, match="at line 2, column 7: the value is not what its tag"):
        parse_yaml("seed: 3\nname: !!bool x")


@pytest.mark.parametrize("problem", ["exceeded maximum nesting depth", "maximum recursion level reached"])
def test_deep_nesting_has_one_sentence_whatever_the_library_says(problem, monkeypatch):
    def fail(*_arguments, **_options):
        raise yaml.scanner.ScannerError("while scanning", None, problem, None)

    for name in ("parse", "load"):
        with monkeypatch.context() as patch:
            patch.setattr(yaml, name, fail)
            with pytest.raises(SpecError, match="is nested far beyond a spec"):
                parse_yaml("[" * 60 + "]" * 60)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "spec.yaml")
    with pytest.raises(SpecError, match="no plain file"):
        read_spec(tmp_path / "spec.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "threads: !!bool x",
        "threads: !!int ''",
        "[" * 90_000,
        "threads: 1e999",
        "1: 2",
        "\t",
        "threads: 1\nthreads: 2",
        "- 3",
        "workers: !!set {a}",
        "threads: .inf",
        "device: hf_abcdefghijklmnopqrstuv",
        "hf_abcdefghijklmnopqrstuv: 1",
    ],
)
def test_settings_that_are_odd_are_a_sentence(text, tmp_path):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(SpecError, match="settings") as refused:
        load_settings(Workspace(tmp_path))
    assert "hf_" not in str(refused.value)


SECRETS = [
    "hf_abcdefghijklmnopqrstuvwxyz",
    "my_hf_abcdefghijklmnopqrst",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghijklmnop",
    "glpat-abcdefghijklmnopqrst",
    "xoxb-1234567890-abcdefghij",
    "AKIAABCDEFGHIJKLMNOP",
    "sk-proj-Abcdefghij0123456789xyz",
    "sk-ant-api03-Abcdefghij0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.x",
    "https://me:secret@hub.example/a/b",
    "https://hub.example/a?token=secretsecret",
    "https://hub.example/a?x=1&X-Amz-Signature=secretsecret",
    "https://hub.example/a?api_key=secretsecret",
    "Authorization: Bearer secretsecretsecret",
]
PLACES = [
    "name",
    "teacher.source",
    "teacher.revision",
    "student.source",
    "task.source",
    "task.test_source",
    "task.subset",
    "task.revision",
    "task.format",
    "task.template",
    "method",
    "mapping.strategy",
    "until",
    "seed",
    "factorisation.rank",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_every_kind_of_secret_is_refused_in_every_field(secret):
    changes = [{place: secret} for place in PLACES] + [
        {"task.columns": {"question": secret}},
        {"task.columns": {secret: "question"}},
        {"task.scorers": [secret]},
        {"task.judge": {"source": secret}},
        {"task.judge": {"source": "a/b", "revision": secret}},
        {"sensitivity.selection": "manual", "sensitivity.ids": ["a", secret]},
        {"extraction.origin": [secret]},
        {"references": [secret]},
    ]
    for change in changes:
        with pytest.raises(SpecError, match="password or a token") as refused:
            RunSpec().with_changes(change)
        assert secret not in str(refused.value) and "secretsecret" not in str(refused.value)
    for text in (f"'{secret}': 1", f"name: &a '{secret}'\nx: *a", f"name: '{secret}'\nunknown: 1"):
        with pytest.raises(SpecError) as refused:
            parse_yaml(text)
        assert secret not in str(refused.value)
    for model in (lambda: RunSpec(name=secret), lambda: TaskSpec(subset=secret), lambda: ModelSpec(source=secret)):
        with pytest.raises(ValidationError, match="password or a token"):
            model()


@pytest.mark.parametrize(
    "name",
    [
        "hf_model of 2024",
        "task-learning-rate-sweep-over-seeds-2",
        "sk-learn baseline 3",
        "a?b",
        "mean ± 3",
        "keys=5",
        "bearer of news",
        "ghp_short",
        "me@home",
    ],
)
def test_a_plain_name_is_no_secret(name):
    assert RunSpec().with_changes({"name": name}).name == name


def test_looking_for_secrets_takes_time_in_proportion():
    for text in ("eyJ-" * 250_000, "sk-" * 300_000, "?token" * 150_000, "://" * 300_000, "bearer " * 150_000):
        assert not holds_secret(text[:999_999])


def test_keys_of_controls_leave_old_files_as_they_were():
    old = RunSpec().model_dump(mode="json")
    for model in ("teacher", "student"):
        del old[model]["untrained"]
    del old["sensitivity"]["task"]
    assert parse_spec(old) == RunSpec()
    assert RunSpec().with_changes({"teacher.untrained": 3}).teacher.untrained == 3
    with pytest.raises(SpecError, match=r"teacher\.untrained: -1 given"):
        parse_spec({"teacher": {"source": "bundled:teacher", "untrained": -1}})
    with pytest.raises(SpecError, match=r"sensitivity\.task"):
        parse_spec({"sensitivity": {"task": ""}})


ODD_TEXTS = (
    "",
    "{}",
    "seed: 3",
    "seed: 3\nseed: 4",
    "name: a\rseed: 3",
    'name: "a\nseed: 3"',
    "name: a\n  b\nseed: 3",
    "name: |\n  a\n\nseed: 3",
    "name: >-\n  a\n\n  b\nseed: 3\n\n",
    "# a note\nseed: 3",
    "seed: 3 # a note",
    "---\nseed: 3",
    "seed: 3\n...\n",
    "seed: 3\n---\nseed: 4",
    "teacher: &a {source: x}\nstudent: *a",
    "task: {source: x,\nsizes: {train: 3}}",
    "references:\n- student\n- teacher\nseed: 1",
    "references: [student,\nteacher]",
    "? seed\n: 3",
    "seed: 3\n name: x",
    "seed:\n  3",
    "seed: '3'",
    "seed: true",
    "seed: -1",
    "colour: blue",
    "name: hf_abcdefghijklmnopqrstuvwx",
    "method: seeking\nmethod : pissa",
    "extraction:\n  origin: [q, k, v, o]",
    "finetuning:\n  batch_size: 8\n  micro_batch_size: 3",
    "\tseed: 3",
    "seed: !!int 3",
    "name: x\u2028seed: 3",
    "name: x\x85seed: 3",
)


@pytest.mark.parametrize("text", [*ODD_TEXTS, *(f"{text}\nuntil: training\n" for text in ODD_TEXTS)])
def test_a_spec_put_together_from_its_parts_is_what_its_whole_text_says(text):
    def outcome(read):
        try:
            return read()
        except SpecError as error:
            return str(error)

    whole = outcome(lambda: parse_spec(load_yaml(text, "spec"), "spec"))
    found = outcome(lambda: parse_yaml(text))
    assert found == whole
    if not isinstance(whole, str):
        assert found.model_fields_set == whole.model_fields_set


def test_what_many_specs_share_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(spec_module, "load_yaml", lambda *given: read.append(given) or load_yaml(*given))
    base = RunSpec(name="a name that no other test has").to_yaml()
    spec_module._part_of_spec.cache_clear()
    assert parse_yaml(base) == parse_yaml(base)
    parts = len(read)
    assert parts == len(RunSpec.model_fields)
    assert parse_yaml(base.replace("\nseed: 0", "\nseed: 77")).seed == 77
    assert len(read) == parts + 1
