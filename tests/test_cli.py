"""The command line: exit codes, one sentence for what a user can mend, JSON for machines, whole runs as processes."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from paraknow_core.cli import main
from paraknow_core.cli.console import show_table
from paraknow_core.display import one_line
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import PROJECT_ROOT
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.lifecycle import ask_to_stop, create_run
from paraknow_core.runs.writer import RunWriter
from paraknow_core.spec import RunSpec, read_spec
from paraknow_core.studies.folder import list_studies
from tests.tiny_models import build_tiny, edit_weights

PYTHON = [sys.executable, "-m", "paraknow_core"]


def one_sentence(text: str) -> str:
    """Check that a refusal is one line without a traceback, and return it."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert 20 < len(lines[0]) < 400
    return lines[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """A folder with a tiny teacher, a tiny student and questions that they can be trained on in a moment."""
    folder = tmp_path_factory.mktemp("pair")
    build_tiny("llama", folder / "teacher", seed=1, hidden_size=48, num_hidden_layers=3, tie_word_embeddings=True)
    build_tiny("llama", folder / "student", seed=2, tie_word_embeddings=True)
    lines = [
        {
            "id": f"sum-{i}",
            "messages": [{"role": "user", "content": f"{i} + {i}?"}, {"role": "assistant", "content": f"#### {2 * i}"}],
        }
        for i in range(40)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def tiny_spec(pair: Path, **changes: object) -> RunSpec:
    """Return a spec that runs in seconds."""
    return RunSpec().with_changes(
        {
            "teacher.source": str(pair / "teacher"),
            "student.source": str(pair / "student"),
            "task.source": str(pair / "sums.jsonl"),
            "task.max_new_tokens": 4,
            "task.sizes": {"train": 24, "validation": 4, "test": 8},
            "sensitivity.samples": 4,
            "factorisation.rank": 4,
            "factorisation.lora_alpha": 4,
            "finetuning.max_steps": 4,
            "finetuning.batch_size": 8,
            **changes,
        }
    )


# Wording: each of these is something a user types sooner or later.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nope"], "--nope"),
        (["inspekt"], "inspekt"),
        (["inspect"], "MODEL"),
        (["inspect", "nosuchmodel"], "nosuchmodel"),
        (["inspect", "bundled:nobody"], "nobody"),
        (["compat", "bundled:teacher"], "STUDENT"),
        (["run"], "SPEC.yaml"),
        (["run", "missing.yaml"], "spec show"),
        (["run", "20200101-nothing"], "no run has this id"),
        (["run", "tests"], "no spec.yaml"),
        (["run", "tests", "pages", "--out", "x"], "--out"),
        (["run", "tests", "--threads", "0"], "--threads"),
        (["run", "tests", "--device", "tpu"], "'cuda'"),
        (["runs"], "runs"),
        (["runs", "show", "../../etc"], "plain name"),
        (["runs", "stop", "x"], "runs list"),
        (["runs", "list", "--state", "odd"], "'lost'"),
        (["spec", "validate", "Makefile"], "Makefile"),
        (["spec", "show", "missing.yaml"], "missing.yaml"),
        (["--workspace", "Makefile", "models"], "is a file"),
        (["ui", "--port", "0"], "--port"),
        (["ui", "--host", "no.such.host.invalid"], "not known"),
        (["ui", "--host", "192.0.2.1"], "not an address of this machine"),
        (["demo", "--student", "nobody"], "'kin'"),
        (["demo", "--task", "nothing"], "nothing"),
        (["sensitivity", "--teacher", "bundled:teacher", "--data", "x", "--out", "tests"], "tests already holds files"),
        (["sensitivity", "--teacher", "bundled:teacher", "--data", "x", "--out", "Makefile"], "is a file"),
        (["sensitivity", "--teacher", "bundled:teacher", "--data", "missing.jsonl", "--out", "{tmp}/x"], "missing"),
        (
            [
                "sensitivity",
                "--teacher",
                "bundled:teacher",
                "--data",
                "x",
                "--out",
                "{tmp}/x",
                "--memory-budget",
                "3,5GB",
            ],
            "'3,5GB' given; a size such as 3.5GB",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_refusal_is_one_sentence_and_exit_code_2(arguments, says, workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT_ROOT)
    assert main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert says in one_sentence(output.err.splitlines()[-1])
    assert output.out == ""


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--rank", "0", "rank"),
        ("--rank", "4000", "choose 1 to 16"),
        ("--mapping", "best", "0,1,2,5"),
        ("--mapping", "0", "2 layers"),
        ("--mapping", "0,9", "teacher layer 9"),
        ("--origin", "ears", "ears"),
        ("--lora-alpha", "-1", "lora_alpha"),
        ("--samples", "4000", "4000 seed samples"),
        ("--max-length", "3", "max_length"),
        ("--columns", "question", "'question' given; write PART=NAME"),
        ("--columns", "question=nothing", "task.columns.question is 'nothing', which is not a column"),
    ],
)
def test_extract_refuses_and_leaves_nothing_behind(option, value, says, pair, workspace, tmp_path, capsys):
    given = {"--samples": "2", "--rank": "4"} | {option: value}
    flags = [part for item in given.items() for part in item]
    code = main(
        [
            "extract",
            "--teacher",
            str(pair / "teacher"),
            "--student",
            str(pair / "student"),
            "--data",
            str(pair / "sums.jsonl"),
            "--out",
            str(tmp_path / "out"),
            *flags,
        ]
    )
    assert code == 2
    assert says in one_sentence(capsys.readouterr().err.splitlines()[-1])
    assert [path.name for path in tmp_path.iterdir() if path.name != "workspace"] == []


def test_a_sentence_has_no_control_characters():
    assert one_line("a\x1b[31mb\n c\x07\td") == "a [31mb c d"


# Looking without computing


def test_json_is_one_document(workspace, capsys):
    for arguments, key in (
        (["inspect", "bundled:teacher"], "modules"),
        (["compat", "bundled:teacher", "bundled:stranger"], "pairings"),
        (["spec", "show"], "finetuning"),
    ):
        assert main([*arguments, "--json"]) == 0
        assert key in json.loads(capsys.readouterr().out)
    for command in ("models", "tasks"):
        assert main([command, "--json"]) == 0
        assert any("teacher" in str(r) or "word_problems" in str(r) for r in json.loads(capsys.readouterr().out))
    assert main(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_long_list_of_runs_shows_the_newest_and_all_where_that_is_asked(workspace, capsys, monkeypatch):
    monkeypatch.setattr("paraknow_core.cli.runs.NEWEST", 2)
    read = []
    monkeypatch.setattr(RunFolder, "result", lambda run: read.append(run.id))
    ids = sorted((create_run(workspace, RunSpec(name=f"run {n}", seed=n)).id for n in range(4)), reverse=True)
    lists = {}
    for option in ((), ("--all",), ("--state", "queued"), ("--json",)):
        read.clear()
        assert main(["runs", "list", *option]) == 0
        lists[option] = capsys.readouterr().out, len(read)
    shown = {option: [run for run in ids if run in text] for option, (text, _) in lists.items()}
    assert shown == {(): ids[:2], ("--all",): ids, ("--state", "queued"): ids[:2], ("--json",): ids}
    assert lists[()][1] == 2  # of the others only their names are read
    assert "the newest 2 of 4; `--all` lists every one" in lists[()][0]
    assert "the newest" in lists["--state", "queued"][0]
    assert "the newest" not in lists["--all",][0]
    assert [record["id"] for record in json.loads(lists["--json",][0])] == ids


def test_a_long_table_is_printed_line_by_line(capsys, monkeypatch):
    rows = [("a", 1, None), ("b " * 50, 22, "x\ny"), ("c", 3, "z")]
    show_table(("name", "n", "what"), rows, right=("n",))
    folded = capsys.readouterr().out.split()
    monkeypatch.setattr("paraknow_core.cli.console.PLAIN_ROWS", 2)
    show_table(("name", "n", "what"), rows, right=("n",))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 2
    assert [word for word in " ".join(lines).split() if "-" not in word] == [word for word in folded if "─" not in word]
    assert lines[0].index("n  what") == lines[2].index("1") == lines[4].index("3  z")
    assert not any(line.endswith(" ") for line in lines)


def test_tables_name_what_matters(workspace, capsys):
    assert main(["inspect", "bundled:teacher"]) == 0
    shown = capsys.readouterr().out
    assert "down" in shown
    assert "llama" in shown
    assert main(["compat", "bundled:teacher", "bundled:stranger"]) == 0
    assert "cut" in capsys.readouterr().out
    assert main(["tasks"]) == 0
    assert "bundled:word_problems" in capsys.readouterr().out


def test_the_default_spec_is_valid_and_documented(workspace, tmp_path, capsys):
    assert main(["spec", "show"]) == 0
    file = tmp_path / "spec.yaml"
    file.write_text(capsys.readouterr().out)
    assert read_spec(file) == RunSpec()
    assert main(["spec", "validate", str(file)]) == 0
    assert "valid" in capsys.readouterr().out
    assert main(["spec", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    file.write_text(file.read_text().replace("rank:", "rnak:"))
    assert main(["spec", "validate", str(file)]) == 2
    assert "'rnak'" in one_sentence(capsys.readouterr().err)
    readme = (PROJECT_ROOT / "README.md").read_text()
    models = [schema, *schema["$defs"].values()]
    missing = {key for model in models for key in model["properties"] if f"`{key}`" not in readme}
    assert not missing, "the README's spec reference leaves these keys out"


MEASURE = """
import sys, time
from pathlib import Path
from paraknow_core.cli import main
from paraknow_core.cli.console import show_table
assert main(sys.argv[1:]) == 0
status = Path("/proc/self/status")
peak = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else [0]
print(time.process_time(), *peak, "torch" in sys.modules, "transformers" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(("arguments", "seconds"), [(["--help"], 0.5), (["inspect", "bundled:teacher"], 2.0)])
def test_help_and_looking_start_at_once_and_stay_small(arguments, seconds, workspace):
    """Processor time of the best of three, because a busy machine says nothing about the program."""
    measured = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
        )
        spent, peak, *loaded = done.stderr.split()
        assert loaded == ["False", "False"]
        measured.append((float(spent), int(peak)))
    assert min(measured)[0] < seconds
    assert max(peak for _, peak in measured) < 200_000  # kB


def test_a_closed_pipe_ends_quietly(workspace):
    child = subprocess.Popen(
        [*PYTHON, "spec", "schema"], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    assert child.stderr.read() == b""
    child.wait()


def test_bugs_keep_their_traceback(workspace, monkeypatch):
    monkeypatch.setattr("paraknow_core.cli.specs.show_json", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["spec", "schema"])


def test_a_teacher_whose_weights_all_count_nothing_is_a_table_of_zeros(tiny, chat_file, workspace, tmp_path, capsys):
    folder = tmp_path / "teacher"
    shutil.copytree(tiny("llama", tie_word_embeddings=False), folder)
    edit_weights(folder, lambda tensors: {name: tensor * 0 for name, tensor in tensors.items()})
    arguments = ["--teacher", str(folder), "--data", str(chat_file), "--samples", "2", "--out", str(tmp_path / "out")]
    assert main(["sensitivity", *arguments]) == 0
    assert "0.0 %" in capsys.readouterr().out


def test_fields_are_mapped_by_an_option_and_what_is_not_used_is_said(pair, workspace, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"ask": "{i} + 1", "say": "{i + 1}", "level": 1}}\n' for i in range(4)))
    arguments = [
        "--teacher",
        str(pair / "teacher"),
        "--data",
        str(data),
        "--samples",
        "2",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["sensitivity", *arguments, "--columns", "question=ask", "--columns", "answer=say"]) == 0
    assert "warning: data.jsonl: the field 'level' is not used\n" in capsys.readouterr().err


def test_no_room_for_a_copy_is_a_sentence_and_the_measurement_is_kept(pair, workspace, tmp_path, capsys, monkeypatch):
    def too_large(*_: object) -> None:
        raise OSError(27, "File too large")

    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", too_large)
    data, out = str(pair / "sums.jsonl"), str(tmp_path / "out")
    arguments = ["sensitivity", "--teacher", str(pair / "teacher"), "--data", data, "--samples", "1", "--out", out]
    assert main(arguments) == 2
    assert "kept in the workspace" in one_sentence(capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    monkeypatch.setattr("paraknow_core.sensitivity.measure.measure", None)
    assert main(arguments) == 0


# Whole commands as processes


@pytest.mark.slow
def test_sensitivity_and_extract_fill_a_new_folder(pair, run_cli, tmp_path):
    common = ["--teacher", pair / "teacher", "--data", pair / "sums.jsonl", "--samples", 3]
    done = run_cli("sensitivity", *common, "--out", tmp_path / "s", "--json")
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)
    assert totals["sample_ids"] == ["sum-0", "sum-1", "sum-2"]  # the first of the file, in its order
    assert len(totals["layers"]) == 3
    names = {"sensitivity.json", "sensitivity.safetensors", "reductions.safetensors"}
    assert {path.name for path in (tmp_path / "s").iterdir()} == names
    assert json.loads((tmp_path / "s" / "sensitivity.json").read_text()) == totals

    (tmp_path / "e").mkdir()  # an empty folder is as good as none
    done = run_cli(
        "extract",
        *common,
        "--student",
        pair / "student",
        "--rank",
        4,
        "--mapping",
        "2,0",
        "--origin",
        "attention,down",
        "--out",
        tmp_path / "e",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["layer_mapping"] == [2, 0]
    assert record["rank"] == record["lora_alpha"] == 4
    assert {module["role"] for module in record["modules"].values()} == {"q", "k", "v", "o", "down"}
    assert (tmp_path / "e" / "init_adapter" / "adapter_model.safetensors").is_file()
    assert "Subtract the product first" in record["init_adapter"]
    assert record["init_adapter"] in (tmp_path / "e" / "init_adapter" / "README.md").read_text()
    assert names < {path.name for path in (tmp_path / "e").iterdir()}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert "Warning" not in done.stderr


def test_a_run_from_spec_to_deletion(pair, run_cli, workspace, tmp_path, capsys):
    file = tmp_path / "spec.yaml"
    file.write_text(tiny_spec(pair, name="first").to_yaml())
    done = run_cli("run", file, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["state"] == "done"
    assert record["result"]["scores"][0]["n"] == 8
    assert "fine-tuning" in done.stderr
    run_id = record["id"]

    def said(*arguments: object, code: int = 0) -> tuple[str, str]:
        """Give the command line something, in this process; return what it wrote to stdout and to stderr."""
        assert main([*map(str, arguments)]) == code
        return capsys.readouterr()

    shown = json.loads(said("runs", "show", run_id[:-2], "--json")[0])
    assert shown["changes"]["factorisation.rank"] == [4, 16]
    assert "adapter" in shown["files"]
    assert "done already" in said("run", run_id)[1]  # nothing is computed again

    said("runs", "export", run_id, "--out", tmp_path / "run.zip")
    inside = {name.partition("/")[2] for name in zipfile.ZipFile(tmp_path / "run.zip").namelist()}
    assert {"spec.yaml", "result.json", "extraction.json", "adapter/adapter_model.safetensors"} <= inside
    assert not {name for name in inside if name.startswith(("log", "status", "process", "checkpoints"))}
    _, refused = said("runs", "export", run_id, "--out", tmp_path / "run.zip", code=2)
    assert "exists already" in one_sentence(refused)

    merged = said("runs", "export", workspace.runs / run_id, "--merged", "--out", tmp_path / "whole", "--json")
    facts = json.loads(merged[0])
    assert (facts["run"], facts["dtype"], facts["rounding"]["max_abs"]) == (run_id, "float32", 0)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(facts["files"])
    said("inspect", tmp_path / "whole")

    assert "--yes" in one_sentence(said("runs", "delete", run_id, code=2)[1])
    said("runs", "delete", run_id, run_id[:20], "--yes")
    assert list_runs(workspace) == []


def test_export_leaves_links_out_and_says_so(workspace, tmp_path, capsys):
    run = create_run(workspace, RunSpec())
    write_json(run.file("status.json"), {"state": "done"})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "adapter_config.json").write_text("secret")
    run.file("adapter").symlink_to(tmp_path / "outside")
    assert main(["runs", "export", run.id, "--out", str(tmp_path / "run.zip")]) == 0
    output = capsys.readouterr()
    assert "left out, because they are links or lie behind one: adapter/adapter_config.json" in output.err
    assert zipfile.ZipFile(tmp_path / "run.zip").namelist() == [f"{run.id}/spec.yaml"]
    usual = (tmp_path / "outside" / "adapter_config.json").stat().st_mode
    assert (tmp_path / "run.zip").stat().st_mode == usual
    assert main(["runs", "export", run.id, "--out", str(tmp_path / "again.zip"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"][0] == "adapter/adapter_config.json"
    for arguments, says in ((["--merged"], "is a link"), (["--dtype", "float16"], "add --merged")):
        assert main(["runs", "export", run.id, "--out", str(tmp_path / "new"), *arguments]) == 2
        assert says in one_sentence(capsys.readouterr().err.splitlines()[-1])
    run.file("adapter").unlink()
    assert main(["runs", "export", run.id, "--out", str(tmp_path / "new"), "--merged"]) == 2
    assert "has no trained adapter" in one_sentence(capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "new").exists()


def test_extract_says_at_its_end_how_its_adapter_starts(workspace, tmp_path, capsys, monkeypatch):
    record = {"layer_mapping": None, "modules": {}, "skipped": {}, "init_adapter": "Subtract it first."}
    monkeypatch.setattr("paraknow_core.cli.transfer._compute", lambda *_, **__: record)
    assert (
        main(
            [
                "extract",
                "--teacher",
                "bundled:teacher",
                "--student",
                "bundled:kin",
                "--data",
                "x",
                "--samples",
                "2",
                "--rank",
                "4",
                "--out",
                str(tmp_path / "o"),
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == "Subtract it first."


def test_a_failed_run_does_not_keep_the_next_from_running(pair, workspace, capsys):
    quick = {"until": "sensitivity"}
    bad = create_run(workspace, tiny_spec(pair, **quick, **{"task.source": str(pair / "gone.jsonl")}))
    good = create_run(workspace, tiny_spec(pair, **quick))
    assert main(["run", str(bad.path), str(good.path)]) == 2
    assert [bad.status().state, good.status().state] == ["failed", "done"]
    assert "Traceback" not in capsys.readouterr().err
    assert "gone.jsonl" in bad.status().message
    assert "gone.jsonl" in bad.log_tail()


def wait_for(condition, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def start(*arguments: object) -> subprocess.Popen:
    """Start the command line in a process group of its own, so that a signal hits it alone."""
    return subprocess.Popen(
        [*PYTHON, *map(str, arguments)],
        cwd=PROJECT_ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell starts its background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_resumes(number, pair, run_cli, workspace):
    long = tiny_spec(pair, **{"finetuning.max_steps": 2000, "finetuning.validations": 0})
    first, second = create_run(workspace, long), create_run(workspace, tiny_spec(pair, until="sensitivity"))
    child = start("run", first.path, second.path)
    wait_for(lambda: len(first.metrics()) >= 2 or child.poll() is not None)
    child.send_signal(number)
    _, errors = child.communicate(timeout=180)
    assert child.returncode == 130, errors
    assert "Traceback" not in errors
    assert "runs resume" in errors
    assert [first.status().state, second.status().state] == ["stopped", "stopped"]
    assert first.metrics()[-1]["step"] < 2000
    assert list(first.file("checkpoints").glob("checkpoint-*"))
    if number == signal.SIGINT:
        return  # how it goes on does not depend on the signal

    done = run_cli("runs", "resume", first.id)
    assert done.returncode == 0, done.stderr
    steps = len(first.metrics())
    wait_for(lambda: len(first.metrics()) > steps)
    assert run_cli("runs", "stop", first.id, "--grace", 120).returncode == 0
    assert first.status().state == "stopped"


def test_a_stop_request_skips_to_the_next_run(pair, workspace):
    long = tiny_spec(pair, **{"finetuning.max_steps": 2000, "finetuning.validations": 0})
    first, second = create_run(workspace, long), create_run(workspace, tiny_spec(pair, until="sensitivity"))

    def ask() -> None:
        wait_for(first.metrics)
        ask_to_stop(first)

    asking = threading.Thread(target=ask)
    asking.start()
    main(["run", str(first.path), str(second.path)])
    asking.join()
    assert [first.status().state, second.status().state] == ["stopped", "done"]
    assert first.metrics()[-1]["step"] < 2000


def test_a_killed_process_leaves_no_run_queued_for_ever(pair, workspace):
    runs = [create_run(workspace, tiny_spec(pair)) for _ in range(2)]
    child = start("run", *(run.path for run in runs))
    wait_for(lambda: all(run.file("process.json").exists() for run in runs))
    child.kill()
    child.communicate()
    assert [run.status().state for run in runs] == ["lost", "lost"]


def test_ctrl_c_has_no_traceback(pair, workspace, tmp_path):
    child = start(
        "sensitivity",
        "--teacher",
        pair / "teacher",
        "--data",
        pair / "sums.jsonl",
        "--samples",
        30,
        "--out",
        tmp_path / "out",
    )
    assert child.stderr.readline()  # at work
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=180)
    assert child.returncode == 130
    assert "Traceback" not in errors
    assert not [path for path in tmp_path.iterdir() if path.name != "workspace"]


def test_a_bug_in_a_run_is_kept_in_its_log(pair, workspace, monkeypatch, capsys):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("paraknow_core.pipeline.execute", broken)
    run = create_run(workspace, tiny_spec(pair))
    assert main(["run", str(run.path)]) == 1
    assert "ZeroDivisionError: a bug" in run.log_tail()
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err
    assert run.status().state == "failed"


def test_a_full_disk_is_a_sentence(workspace, monkeypatch, capsys):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("paraknow_core.cli.specs.show_json", full)
    assert main(["spec", "schema"]) == 2
    assert "no space left" in one_sentence(capsys.readouterr().err)


def test_the_demo_prints_a_table_with_paired_differences(workspace, monkeypatch, capsys):
    """The runs themselves are replaced: what is tested is arms, order, table and sentence."""

    def executed(folder: RunFolder, *_: object) -> None:
        method = folder.spec().method
        scores = [1.0] * (60 if method == "seeking" else 20) + [0.0] * (40 if method == "seeking" else 80)
        lines = [{"scorer": "number_match", "id": str(i), "score": s} for i, s in enumerate(scores)]
        score = {
            "scorer": "number_match",
            "unit": "share",
            "value": sum(scores) / 100,
            "low": 0.1,
            "high": 0.7,
            "n": 100,
        }
        result = {"scores": [score], "references": {"student": [score | {"value": 0.05}]}, "timings": {}}
        with RunWriter(folder):
            folder.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            folder.file("result.json").write_text(json.dumps(result))

    monkeypatch.setattr("paraknow_core.pipeline.execute", executed)
    monkeypatch.setattr("paraknow_core.engines.choice.usable_cores", lambda: 1)  # one after the other, in this process
    assert main(["demo", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    by_name = {row["arm"]: row for row in shown["arms"]}
    assert by_name["seeking"]["difference"] == pytest.approx(0.4)
    assert by_name["untouched student"]["value"] == 0.05
    assert len(shown["runs"]) == 5
    (study,) = list_studies(workspace)
    assert sorted(cell.run.id for cell in study.cells()) == sorted(id for ids in shown["runs"].values() for id in ids)
    assert main(["demo", "--student", "kin", "--seeds", "2"]) == 0
    output = capsys.readouterr().out
    assert "seeking, difference" in output
    assert "+40.0 %" in output
    assert "+40.0 points" in output


@pytest.mark.slow
def test_the_demo_runs_on_the_bundled_models(workspace, monkeypatch, capsys):
    """All arms for real, with a fraction of the data; nothing is asserted about who wins."""
    monkeypatch.setattr("paraknow_core.cli.demo.SIZES", {"train": 64, "validation": 8, "test": 16})
    assert main(["demo", "--student", "kin", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {row["arm"] for row in shown["arms"]} >= {"untouched student", "untouched teacher", "seeking", "PiSSA"}
    assert all(row["n"] == 16 for row in shown["arms"])
    assert len(shown["says"]) == 2
    states = {run.id: run.status().state for run in list_runs(workspace)}
    assert set(states.values()) == {"done"}
    (store,) = workspace.sensitivity.iterdir()  # measured once, shared by the arms
    assert (store / "sensitivity.json").exists()
