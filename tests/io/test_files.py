"""Nobody ever sees a half-written file or folder, and every failure is one sentence."""

import errno
import os
import subprocess
import sys

import pytest

from medseg.errors import OutputError
from medseg.io import files
from medseg.io.files import append_line, atomic_file, atomic_folder, flush_file, remove_leftovers


def test_file_appears_whole_and_keeps_its_ending(tmp_path):
    target = tmp_path / "new" / "mask.nii.gz"
    with atomic_file(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".")  # no index looks at hidden files
        temporary.write_bytes(b"content")
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert list(target.parent.iterdir()) == [target]


def test_failure_keeps_the_old_file(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(target) as temporary:
        temporary.write_text("new" * (1 // 0))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only"), (errno.EIO, "error")],
)
@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_system_errors_become_one_sentence(tmp_path, kind, number, words):
    with pytest.raises(OutputError, match=words), kind(tmp_path / "target"):
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), atomic_file(tmp_path / "file" / "mask.nii") as temporary:
        temporary.write_text("never")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission"), atomic_file(tmp_path / "mask.nii") as temporary:
        temporary.write_text("never")


def test_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "case"
    for names in (["a", "b"], ["c"]):
        with atomic_folder(target) as temporary:
            for name in names:
                (temporary / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [target]


def test_failure_keeps_the_old_folder(tmp_path):
    target = tmp_path / "case"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as temporary:
        (temporary / "a").write_text("new" * (1 // 0))
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_folder_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "case"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("old")
    replace = os.replace

    def fail_into_place(source, destination):
        if destination == target and not str(source).endswith("old"):
            monkeypatch.setattr(os, "replace", replace)  # moving back works again
            raise OSError(errno.EIO, "broken")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail_into_place)
    with pytest.raises(OutputError), atomic_folder(target) as temporary:
        (temporary / "a").write_text("new")
    assert (target / "a").read_text() == "old"


@pytest.mark.parametrize("is_there", [False, True])
def test_of_two_processes_that_make_a_folder_at_once_neither_fails(tmp_path, monkeypatch, is_there):
    target, replace = tmp_path / "case", os.replace
    if is_there:
        target.mkdir()
        (target / "a").write_text("old")

    def other_is_faster(source, destination):
        """Put the other one's folder there just before ours."""
        if destination == target:
            monkeypatch.setattr(os, "replace", replace)
            target.mkdir()
            (target / "a").write_text("the other's")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", other_is_faster)
    with atomic_folder(target) as folder:
        (folder / "a").write_text("ours")
    assert (target / "a").read_text() == "ours"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_another_process_moved_aside_is_made_all_the_same(tmp_path, monkeypatch):
    target, replace = tmp_path / "case", os.replace
    target.mkdir()

    def other_takes_it(source, destination):
        if source == target:
            monkeypatch.setattr(os, "replace", replace)
            target.rmdir()
        replace(source, destination)

    monkeypatch.setattr(os, "replace", other_takes_it)
    with atomic_folder(target) as folder:
        (folder / "a").write_text("ours")
    assert (target / "a").read_text() == "ours"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_folder_that_is_stopped_while_it_is_replaced_leaves_the_old_one(tmp_path, monkeypatch, error):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("precious")
    replace = os.replace

    def stopped(source, destination):
        if destination == target and source.name.startswith(".tmp-") and (source / "new").exists():
            raise error
        replace(source, destination)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(error), atomic_folder(target) as folder:
        (folder / "new").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


KILLED = """
import os, sys
from pathlib import Path
from medseg.io.files import atomic_file, atomic_folder
target = Path(sys.argv[1])
with atomic_folder(target / "case") as folder, atomic_file(target / "table.csv") as file:
    (folder / "mask.nii.gz").write_bytes(b"half")
    file.write_bytes(b"half")
    os._exit(9)
"""


@pytest.fixture
def leftovers(tmp_path):
    """A folder and a file that a killed process left half-written."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    found = sorted(tmp_path.iterdir())
    assert len(found) == 2
    return found


def test_what_a_killed_process_left_is_taken_away(tmp_path, leftovers):
    (tmp_path / "kept").mkdir()
    (tmp_path / ".tmp-of-somebody").touch()
    with atomic_folder(tmp_path / "case") as own:  # a process that runs is not disturbed
        remove_leftovers(tmp_path)
        assert own.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "case", ".tmp-of-somebody"}


def test_a_line_of_which_a_full_disk_took_a_part_spoils_no_other(tmp_path, monkeypatch):
    path, write = tmp_path / "log.jsonl", os.write
    append_line(path, b"first")
    monkeypatch.setattr(files.os, "write", lambda descriptor, line: write(descriptor, line[:3]))
    with pytest.raises(OSError, match="No space left"):
        append_line(path, b"second")
    monkeypatch.undo()
    append_line(path, b"third", mode=0o600)
    append_line(path, b"fourth")
    assert path.read_bytes() == b"first\nsec\nthird\nfourth\n"


def test_what_is_flushed_is_open_for_writing_where_windows_flushes_nothing_else(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path, modes = tmp_path / "mask.nii", []
    path.write_bytes(b"voxels")
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", lambda opened: modes.append(fcntl.fcntl(opened, fcntl.F_GETFL)))
        flush_file(path)
        patched.setattr(files.os, "name", "nt")
        flush_file(path)
    assert [mode & os.O_ACCMODE for mode in modes] == [os.O_RDONLY, os.O_RDWR]
    assert path.read_bytes() == b"voxels"


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="nobody can be left unburied here")
def test_what_a_process_left_that_nobody_buried_is_taken_away(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)]) as killed:
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie still
        assert list(tmp_path.iterdir())
        remove_leftovers(tmp_path)
        assert not list(tmp_path.iterdir())


def test_what_other_machines_write_is_left_for_a_day(tmp_path, leftovers, monkeypatch):
    monkeypatch.setattr(files, "_place", lambda: "elsewhere")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == leftovers
    yesterday = leftovers[0].stat().st_mtime - files.STALE_SECONDS - 1
    for path in leftovers:
        os.utime(path, (yesterday, yesterday))
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
