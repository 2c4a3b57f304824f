"""Recipes: what can be in them, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.images import ImageStore, Recipe
from pytest_rexxinfra.images import recipe as module

EXAMPLE = Path(__file__).parents[2] / "fixtures/images/mini-regina.toml"
GOOD = 'name = "own"\nkind = "mmdebstrap"\nsuite = "bookworm"\n'


def read(folder: Path, text: str) -> Recipe:
    path = folder / "own.toml"
    path.write_text(text)
    return Recipe.read(path)


def test_the_built_in_recipes_are_found_by_name(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    assert {"mini", "debian-12"} <= set(store.recipes())
    for name, recipe in store.recipes().items():
        assert recipe.name == name
        assert recipe.description
        assert recipe.node == "wheel"
        assert store.find(name) == recipe
    assert store.find("alpine:3.20") is None
    assert store.find("/some/rootfs.tar") is None


def test_a_users_recipe_is_found_by_its_path(tmp_path: Path) -> None:
    recipe = ImageStore(tmp_path).find(str(EXAMPLE))
    assert recipe is not None
    assert (recipe.name, recipe.kind, recipe.node) == ("mini-regina", "busybox", "wheel")
    assert "regina-rexx" in recipe.packages
    assert dict(recipe.env)["REGINA_LANG"] == "en"
    files = {file.path: file for file in recipe.files}
    assert files["/usr/local/bin/answer"].mode == 0o755
    assert b"SAY 6*7" in files["/usr/local/bin/answer"].data
    assert files["/etc/motd"].data == b"A machine for REXX.\n"


def test_everything_can_be_set(tmp_path: Path) -> None:
    text = GOOD + 'mirror = "https://mirror.example/debian"\nnode = "package"\npackages = ["nano=7.2-1"]\n'
    recipe = read(tmp_path, text)
    assert recipe == Recipe(
        name="own",
        kind="mmdebstrap",
        suite="bookworm",
        mirror="https://mirror.example/debian",
        node="package",
        packages=("nano=7.2-1",),
    )


def test_the_key_follows_the_content_and_not_the_wording(tmp_path: Path) -> None:
    key = read(tmp_path, f'{GOOD}packages = ["bash", "nano"]\n').key("amd64")
    assert len(key) == 64
    same = f'{GOOD}description = "other"\nnode = "wheel"\npackages = [ "nano", "bash" ]\n# remark\n'
    assert read(tmp_path, same).key("amd64") == key


@pytest.mark.parametrize(
    "addition",
    [
        'packages = ["bash"]',
        'packages = ["bash", "nano"]\nnode = "none"',
        'packages = ["bash", "nano"]\nmirror = "http://mirror.example/debian"',
        'packages = ["bash", "nano"]\n[env]\nA = "1"',
        'packages = ["bash", "nano"]\n[files."/x"]\ntext = ""',
    ],
)
def test_another_content_is_another_key(tmp_path: Path, addition: str) -> None:
    key = read(tmp_path, f'{GOOD}packages = ["bash", "nano"]\n').key("amd64")
    assert read(tmp_path, f"{GOOD}{addition}\n").key("amd64") != key


def test_architecture_format_node_and_files_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_text("one")
    text = f'{GOOD}[files."/data"]\nsource = "data"\n'
    recipe = read(tmp_path, text)
    keys = {recipe.key("amd64"), recipe.key("arm64")}
    (tmp_path / "data").write_text("two")
    keys.add(read(tmp_path, text).key("amd64"))
    monkeypatch.setattr(module, "NODE_VERSION", "0.0.1")
    keys.add(recipe.key("amd64"))
    monkeypatch.setattr(module, "FORMAT_VERSION", -1)
    keys.add(recipe.key("amd64"))
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ('kind = "busybox"', "name", "missing"),
        ('name = "../x"\nkind = "busybox"', "name", "not possible"),
        ('name = "own"', "kind", "missing"),
        ('name = "own"\nkind = "debootstrap"', "kind", "not possible"),
        ('name = "own"\nkind = "mmdebstrap"', "suite", "missing"),
        ('name = "own"\nkind = "mmdebstrap"\nsuite = "--help"', "suite", "not possible"),
        ('name = "own"\nkind = "busybox"\nsuite = "bookworm"', "suite", "has none"),
        ('name = "own"\nkind = "busybox"\nnode = "package"', "node", "cannot"),
        (GOOD + 'node = "18"', "node", "not possible"),
        (GOOD + 'mirror = "mirror.example"', "mirror", "not possible"),
        (GOOD + "description = 1", "description", "not a string"),
        (GOOD + 'packages = "bash"', "packages", "not a list"),
        (GOOD + 'packages = ["--option"]', "packages", "not the name of a package"),
        (GOOD + 'env = "A=1"', "env", "not a table"),
        (GOOD + '[env]\n"A B" = "1"', "env.A B", "not the name"),
        (GOOD + "[env]\nA = '$(x)'", "env.A", "not a string without"),
        (GOOD + 'files = ["/x"]', "files", "not a table"),
        (GOOD + '[files]\n"/x" = "text"', 'files."/x"', "not a table"),
        (GOOD + '[files."x"]\ntext = ""', 'files."x"', "not an absolute path"),
        (GOOD + '[files."/a/../x"]\ntext = ""', 'files."/a/../x"', "not an absolute path"),
        (GOOD + '[files."/x"]\nmode = "0644"', 'files."/x"', "either"),
        (GOOD + '[files."/x"]\ntext = ""\nmode = "rw"', "mode", "not possible"),
        (GOOD + '[files."/x"]\nsource = "absent"', 'files."/x".source', "cannot be read"),
        (GOOD + '[files."/x"]\ntxt = ""', 'files."/x".txt', "unknown key"),
    ],
)
def test_a_wrong_recipe_is_named_with_its_key(tmp_path: Path, text: str, key: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "own.toml") in message
    assert f"{key}: " in message
    assert problem in message


def test_an_unknown_key_gets_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pakages: unknown key") as caught:
        read(tmp_path, GOOD + "pakages = []")
    assert "did you mean 'packages'?" in (caught.value.hint or "")


def test_a_file_that_is_not_toml_or_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.toml: not TOML: .*line 1"):
        read(tmp_path, "name: own")
    with pytest.raises(UsageError, match=r"absent\.toml: .* cannot be read") as caught:
        ImageStore(tmp_path).find(str(tmp_path / "absent.toml"))
    assert caught.value.hint
