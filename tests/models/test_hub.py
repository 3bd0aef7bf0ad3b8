"""Hub models: a real client against a hub on localhost, a made-up local cache, and every failure as a sentence."""

import errno
import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants, errors, hf_api

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.fingerprint import weights_fingerprint
from paraknow_core.models.source import resolve_model
from tests.models.fake_hub import BREAKS, COMMIT, serve

REPOSITORY = "someone/tiny-llama"
SECRET = "hf_secretsecretsecret"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache of its own."""
    folder = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def hub(tiny, cache, monkeypatch):
    """Return `hub(**options of build_tiny) -> context manager` that serves a tiny model on localhost."""

    def start(folder=None, broken="", only="", **options):
        return Served(folder or tiny("llama", **options), monkeypatch, broken, only)

    return start


@pytest.fixture
def quick(monkeypatch):
    """Do not wait between the hub library's attempts."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)


class Served:
    def __init__(self, folder, monkeypatch, broken="", only=""):
        self.context, self.monkeypatch = serve(folder, REPOSITORY, broken, only), monkeypatch

    def __enter__(self):
        address, asked = self.context.__enter__()
        self.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the hub on localhost is no network
        self.monkeypatch.setattr(constants, "ENDPOINT", address)
        self.monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        self.monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        self.monkeypatch.setattr(hf_api.api, "endpoint", address)
        return asked

    def __exit__(self, *details):
        return self.context.__exit__(*details)


@pytest.mark.parametrize("options", [{}, {"shard_size": "20KB"}])
def test_inspecting_reads_headers_only(hub, tiny, options):
    with hub(**options) as asked:
        source = resolve_model(REPOSITORY, weights=False)
        anatomy = read_anatomy(source)
    assert (source.kind, source.revision, source.label) == ("hub", COMMIT, REPOSITORY)
    local = read_anatomy(resolve_model(str(tiny("llama", **options))))
    assert (anatomy.modules, anatomy.parameters, anatomy.bytes) == (local.modules, local.parameters, local.bytes)
    fetched = [line for line in asked if ".safetensors" in line and "index" not in line and line.startswith("GET")]
    assert fetched and all("bytes=0-100000" in line for line in fetched)
    with pytest.raises(ModelError, match="only its headers were read"):
        source.weight_files()


@pytest.mark.parametrize("options", [{}, {"shard_size": "20KB"}])
def test_downloading_then_offline(hub, tiny, options):
    with hub(**options) as asked:
        source = resolve_model(REPOSITORY)
    assert sum("revision" in line for line in asked) == 1  # the revision is resolved once
    local = resolve_model(str(tiny("llama", **options)))
    assert weights_fingerprint(source) == weights_fingerprint(local)
    for weights in (True, False):  # the hub is gone
        again = resolve_model(REPOSITORY, offline=True, weights=weights)
        assert (again.folder, again.revision) == (source.folder, COMMIT)
        assert read_anatomy(again).modules == read_anatomy(local).modules
    assert resolve_model(REPOSITORY, COMMIT, offline=True).revision == COMMIT


def test_offline_with_only_the_config(hub):
    with hub():
        resolve_model(REPOSITORY, weights=False)
    with pytest.raises(ModelError, match="does not hold all its weights"):
        resolve_model(REPOSITORY, offline=True)


@pytest.mark.parametrize("weights", [True, False])
def test_a_repository_of_pickles(hub, tiny_copy, weights):
    folder = tiny_copy("llama")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with hub(folder), pytest.raises(ModelError, match="safetensors"):
        resolve_model(REPOSITORY, weights=weights)


def test_a_repository_with_only_an_adapter(hub, tiny_copy):
    folder = tiny_copy("llama")
    (folder / "config.json").rename(folder / "adapter_config.json")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with hub(folder), pytest.raises(ModelError, match="holds an adapter"):
        resolve_model(REPOSITORY, weights=False)


def test_a_made_up_cache_is_read_offline(tiny, cache):
    home = cache / "models--someone--tiny-llama"
    shutil.copytree(tiny("llama"), home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    source = resolve_model(REPOSITORY, offline=True)
    assert source.revision == COMMIT and read_anatomy(source).family == "llama"
    with pytest.raises(ModelError, match="the local cache does not hold it and the network is off"):
        resolve_model(REPOSITORY, "v2", offline=True)


def test_a_cache_that_misses_a_shard(tiny, cache):
    folder = cache / "models--someone--tiny-llama" / "snapshots" / COMMIT
    shutil.copytree(tiny("llama", shard_size="20KB"), folder)
    (folder / "model-00002-of-00006.safetensors").unlink()
    with pytest.raises(ModelError, match="not hold all its weights"):
        resolve_model(REPOSITORY, COMMIT, offline=True)


def http(kind: type, status: int = 404) -> Exception:
    """Make one of the hub library's errors, with a secret in its text and in its request."""
    library = _http_library()
    request = library.Request("GET", f"https://example.org/{SECRET}", headers={"authorization": SECRET})
    return kind(f"{SECRET}\nsecond line", response=library.Response(status, request=request))


def _http_library():
    for name in ("httpx2", "httpx"):
        try:
            return __import__(name)
        except ImportError:
            continue
    raise AssertionError("huggingface_hub comes with one of them")


def caused_by(cause: Exception) -> Exception:
    """Make the error that the hub's library raises from another when its cache cannot help."""
    error = errors.LocalEntryNotFoundError(SECRET)
    error.__cause__ = cause
    return error


FAILURES = {
    "gated": (lambda: http(errors.GatedRepoError, 403), "accept its terms"),
    "disabled": (lambda: http(errors.DisabledRepoError, 403), "disabled it"),
    "absent": (lambda: http(errors.RepositoryNotFoundError), "no such model on the hub"),
    "revision": (lambda: http(errors.RevisionNotFoundError), "there is no revision v9"),
    "not cached": (lambda: errors.LocalEntryNotFoundError(SECRET), "cannot be reached and the local cache"),
    "incomplete": (lambda: errors.IncompleteSnapshotError(SECRET, snapshot_path="/x"), "cannot be reached"),
    "offline": (lambda: errors.OfflineModeIsEnabled(SECRET), "HF_HUB_OFFLINE is set"),
    "offline, wrapped": (lambda: caused_by(errors.OfflineModeIsEnabled(SECRET)), "HF_HUB_OFFLINE is set"),
    "no safetensors": (lambda: errors.NotASafetensorsRepoError(SECRET), "only those are read"),
    "torn": (lambda: errors.SafetensorsParsingError(SECRET), "not whole safetensors"),
    "bad id": (lambda: errors.HFValidationError(SECRET), "not a hub id"),
    "unauthorised": (lambda: http(errors.HfHubHTTPError, 401), "log in"),
    "too many": (lambda: http(errors.HfHubHTTPError, 429), "slow down"),
    "server": (lambda: http(errors.HfHubHTTPError, 503), "status 503"),
    "other status": (lambda: http(errors.HfHubHTTPError, 418), "status 418"),
    "no route": (lambda: _http_library().ConnectError(SECRET), "cannot be reached"),
    "slow": (lambda: _http_library().ReadTimeout(SECRET), "cannot be reached"),
    "reset": (lambda: ConnectionResetError(104, SECRET), "cannot be reached"),
    "full disk": (lambda: OSError(errno.ENOSPC, SECRET), "disk of the hub's cache is full"),
    "read-only": (lambda: OSError(errno.EROFS, SECRET), "cannot be written"),
    "rights": (lambda: PermissionError(errno.EACCES, SECRET), "cannot be written"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_is_one_sentence_without_secrets(name, monkeypatch):
    make, words = FAILURES[name]

    def fail(*arguments, **options):
        raise make()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError) as caught:
        resolve_model(REPOSITORY, "v9")
    text = str(caught.value)
    assert text.startswith(f"{REPOSITORY}: ") and words in text and ";" in text
    assert SECRET not in text and "\n" not in text and caught.value.__suppress_context__


def test_a_failure_while_reading_headers_is_a_sentence_too(hub, monkeypatch):
    def fail(*arguments, **options):
        raise errors.SafetensorsParsingError("x")

    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", fail)
    with hub(), pytest.raises(ModelError, match="not whole safetensors"):
        resolve_model(REPOSITORY, weights=False)


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ZeroDivisionError):
        resolve_model(REPOSITORY)


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a b", "", "-x", "a\n"])
def test_a_revision_that_is_none_is_refused(revision):
    with pytest.raises(ModelError, match="is not a revision"):
        resolve_model(REPOSITORY, revision, offline=True)


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_answer_is_one_sentence(hub, quick, broken):
    """As from a network that asks to log in first, a proxy, or a hub that is not well; of all files, or of one."""
    said = 0
    for only, weights in (
        ("", True),
        ("/tree/", True),
        ("config.json", False),
        ("model.safetensors", True),
        ("model.safetensors", False),
    ):
        with hub(broken=broken, only=only):
            try:
                read_anatomy(resolve_model(REPOSITORY, weights=weights))
            except ModelError as error:
                said, text = said + 1, str(error)
                assert text.startswith(f"{REPOSITORY}: ") and ";" in text
                assert SECRET not in text and "\n" not in text and "html" not in text.lower()
            shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    assert said >= 2
