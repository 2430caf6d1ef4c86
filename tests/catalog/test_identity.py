"""Names of cases: unique, safe, and silent about patients."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.catalog.identity import MAX_NAME, default_key_path, load_key, name_scans, pseudonym
from medseg.errors import ConfigError, OutputError


def test_names_are_as_short_as_they_can_be():
    paths = ["liver.nii.gz", "a/scan.nii", "b/scan.nii", "a/x/t1.NII.GZ", "b/x/t1.nii", "lone/x/t2.hdr"]
    assert name_scans([Path(p) for p in paths]) == ["liver", "a_scan", "b_scan", "a_x_t1", "b_x_t1", "t2"]


def test_names_never_collide_and_are_safe_as_file_names():
    paths = [
        "a/b.nii", "a_b.nii", "a/b.nii.gz", "A/B.nii", "é.nii", "ü.nii", "../x.nii", "...nii", "con.nii", " .nii",
        "case-0123456789ab.nii", "x" * 300 + "1.nii", "x" * 300 + "2.nii", "-rf.nii", "a b.nii",
    ]  # fmt: skip
    names = name_scans([Path(p) for p in paths])
    assert len({name.casefold() for name in names}) == len(paths)
    for name in names:
        assert name.isascii()
        assert 0 < len(name) <= MAX_NAME
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert name[0] not in ".-"
        assert name.lower() != "con"


@given(st.lists(st.text(max_size=6), unique=True, max_size=12), st.lists(st.sampled_from("abAB._é "), min_size=12))
def test_any_file_names_give_different_case_names(stems, folders):
    paths = {
        Path(folder) / f"{stem.replace('/', '').replace(chr(0), '')}.nii"
        for stem, folder in zip(stems, folders, strict=False)
    }
    names = name_scans(sorted(paths))
    assert len({name.casefold() for name in names}) == len(paths)


def test_names_that_look_like_pseudonyms_or_digests_are_not_taken_as_such():
    forged = name_scans([Path("a.nii"), Path("a.nii.gz")])[0]
    names = name_scans([Path("a.nii"), Path("a.nii.gz"), Path(f"{forged}.nii")])
    assert len(set(names)) == 3


def test_pseudonyms_depend_on_key_and_identity():
    one, other = bytes(32), b"\1" * 32
    assert pseudonym(one, "1.2", "case") == pseudonym(one, "1.2", "case")
    assert len({pseudonym(one, "1.2", "case"), pseudonym(other, "1.2", "case"), pseudonym(one, "1.3", "case")}) == 3


def test_key_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "new" / "pseudonym.key"
    key = load_key(path)
    assert load_key(path) == key
    assert len(key) == 32
    assert load_key(tmp_path / "other.key") != key
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            load_key(path)


def test_many_first_users_get_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(load_key, [tmp_path / "pseudonym.key"] * 32))
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pseudonym.key"]


@pytest.mark.parametrize("content", ["", "xyz", "00" * 31, "00" * 33])
def test_wrong_key_file(tmp_path, content):
    path = tmp_path / "pseudonym.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a key file"):
        load_key(path)


def test_key_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="key file"):
        load_key(tmp_path / "file" / "pseudonym.key")


def test_default_key_lies_in_the_configuration_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_key_path() == tmp_path / "medseg" / "pseudonym.key"


def test_a_user_without_a_home_is_told_to_name_a_key(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(ConfigError, match="--key"):
        load_key()
