"""Which commit a program says it is of: in a git tree, in an installation, and where nobody knows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from build_backend.commit import noted
from meshd.commit import commit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A git tree with a package ``meshd`` and one commit."""
    package = tmp_path / "tree" / "meshd"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    _git(package.parent, "init", "--quiet")
    _git(package.parent, "add", ".")
    _git(package.parent, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message=one")
    return package.parent


def _git(tree: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(tree), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_git_tree_says_its_commit_and_whether_it_was_changed(tree: Path) -> None:
    head = _git(tree, "rev-parse", "--short=12", "HEAD")
    assert commit(tree / "meshd") == head
    (tree / "meshd" / "__init__.py").write_text("changed = True\n")
    assert commit(tree / "meshd") == f"{head}-changed"


def test_an_installation_says_the_commit_it_was_built_from(tree: Path, tmp_path: Path) -> None:
    with noted(tree):
        note = (tree / "meshd" / "COMMIT").read_text()
    package = tmp_path / "site-packages" / "meshd"
    package.mkdir(parents=True)
    (package / "COMMIT").write_text(note)
    assert commit(package) == _git(tree, "rev-parse", "--short=12", "HEAD")


def test_a_build_leaves_no_note_among_the_sources(tree: Path) -> None:
    with noted(tree):
        pass
    assert not (tree / "meshd" / "COMMIT").exists()


def test_what_a_source_distribution_noted_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "meshd").mkdir()
    (tmp_path / "meshd" / "COMMIT").write_text("0123456789ab\n")
    with noted(tmp_path):
        pass
    assert commit(tmp_path / "meshd") == "0123456789ab"


def test_an_installation_inside_another_repository_does_not_take_its_commit(tree: Path) -> None:
    package = tree / ".venv" / "site-packages" / "meshd"
    package.mkdir(parents=True)
    assert commit(package) == ""
