"""The locks hold what the requirements ask for, in exact versions, and the tests run on them."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def locked(*names: str) -> dict[str, str]:
    entries = [r for name in names for r in read(name) if r.marker is None or r.marker.evaluate()]
    assert all(re.fullmatch(r"==[^*,]+", str(entry.specifier)) for entry in entries)
    return {canonicalize_name(entry.name): str(entry.specifier)[2:] for entry in entries}


@pytest.mark.parametrize(("kind", "lock"), [("", ""), ("-dev", "-dev"), ("-ray", "-dev")])
def test_the_lock_satisfies_the_requirements(kind, lock):
    versions = locked(f"requirements{lock}.lock")
    for requirement in read(f"requirements{kind}.txt"):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement.name


def test_what_is_installed_is_what_is_locked():
    versions = locked("requirements.lock", "requirements-dev.lock")
    installed = {name: version(name).partition("+")[0] for name in versions}  # torch's CPU build is 2.13.0+cpu
    assert installed == versions


def test_users_do_not_install_what_only_tests_need():
    only_tests = {canonicalize_name(requirement.name) for requirement in read("requirements-dev.txt")} - {"packaging"}
    assert not only_tests & set(locked("requirements.lock"))


def test_the_lock_names_no_gpu_library():
    assert not [name for name in locked("requirements.lock") if name.startswith(("nvidia-", "cuda-", "triton"))]
