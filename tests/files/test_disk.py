"""What disks do: errors of every library become words, and files that are not whole are noticed."""

import errno
import json

import pytest

from paraknow_core.errors import DataError
from paraknow_core.files.disk import disk_trouble, whole_tensors


def from_error(kind: type, text: str, cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as error:
            raise kind(text) from error
    except Exception as error:
        return error


SafetensorError = type("SafetensorError", (Exception,), {})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (OSError(errno.EFBIG, "File too large"), "no file of this size"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "full"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "no file of this size"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "full"),
        (from_error(ValueError, "wrapped", OSError(errno.ENOSPC, "full")), "full"),
    ],
)
def test_what_a_full_disk_raises_is_known(error, words):
    assert words in disk_trouble(error)[0]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        ValueError("28"),
        RuntimeError("PytorchStreamReader failed reading zip archive: [enforce fail at inline_container.cc:1]"),
        SafetensorError("Error while deserializing header: incomplete metadata"),
        DataError("disk"),
        None,
    ],
)
def test_other_errors_are_not_the_disk(error):
    assert disk_trouble(error) is None


@pytest.fixture
def tensors(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    numpy = pytest.importorskip("numpy")
    save_file({"a": numpy.ones((3, 4), "float32"), "empty": numpy.ones((0, 4), "float32")}, path, metadata={"x": "y"})
    return path


def test_a_safetensors_file_is_whole_or_not(tensors):
    assert whole_tensors(tensors)
    content = tensors.read_bytes()
    for damaged in (b"", content[:4], content[:40], content[:-1], content + b"x", bytes(len(content)), b"\xff" * 60):
        tensors.write_bytes(damaged)
        assert not whole_tensors(tensors), damaged[:20]
    assert not whole_tensors(tensors.with_name("missing"))
    assert not whole_tensors(tensors.parent)


@pytest.mark.parametrize("header", [[], 3, {"a": 1}, {"a": {"data_offsets": "x"}}, {"a": {"data_offsets": [0]}}])
def test_a_header_that_says_nothing_is_not_whole(tensors, header):
    text = json.dumps(header).encode()
    tensors.write_bytes(len(text).to_bytes(8, "little") + text)
    assert not whole_tensors(tensors)
