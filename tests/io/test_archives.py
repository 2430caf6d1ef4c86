"""Archives from strangers: what is sound comes out whole under neutral names, everything else stays inside."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import OutputError, ReasonCode, UnsupportedScanError
from medseg.io import archives
from medseg.io.archives import list_archive, unpack_archive


@pytest.fixture
def pack(tmp_path):
    """Return a function that writes an archive of {name: content}."""

    def write(files, name="export.zip", compression=zipfile.ZIP_DEFLATED) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            for member, content in files.items():
                archive.writestr(member, content)
        return tmp_path / name

    return write


def refusal(archive: Path, tmp_path: Path) -> ReasonCode:
    """Return the reason for which an archive is neither listed nor unpacked, having left nothing behind."""
    with pytest.raises(UnsupportedScanError) as listed:
        list_archive(archive)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnsupportedScanError) as unpacked:
        unpack_archive(archive, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    assert (unpacked.value.code, str(unpacked.value)) == (listed.value.code, str(listed.value))
    assert "CANARY" not in str(listed.value)
    return listed.value.code


def test_files_come_out_whole_under_their_numbers(pack, tmp_path):
    files = {
        "CANARY/IM1": b"first" * 1000,
        "CANARY/folder/": b"",
        "CANARY\\IM2.dcm": b"second",
        "CANARY/brain.NII.gz": b"third",
        "a/pair.hdr": b"header",
        "b/pair.hdr": b"other header",
        "a/pair.img": b"voxels",
        "IM1": b"",
    }
    archive = pack(files)
    members = list_archive(archive)
    wanted = ["000001", "000003", "000004.nii.gz", "000005.hdr", "000006.hdr", "000005.img", "000008"]
    assert [member.name for member in members] == wanted
    unpack_archive(archive, tmp_path / "out")
    contents = [content for name, content in files.items() if not name.endswith("/")]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == dict(
        zip(wanted, contents, strict=True)
    )


def test_two_headers_of_one_name_stay_apart(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a.hdr", "one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.hdr", "two")
        archive.writestr("a.img", "voxels")
    assert [m.name for m in list_archive(tmp_path / "twice.zip")] == ["000001.hdr", "000002.hdr", "000001.img"]


def test_hidden_files_and_archives_within_stay_packed(pack, tmp_path):
    archive = pack(
        {".DS_Store": b"x", "__MACOSX/._a.nii": b"x", "CANARY.zip": b"PK", "old.tar.gz": b"x", "a.nii.gz": b"x"}
    )
    found = {member.name: (member.code, member.obstacle) for member in list_archive(archive)}
    nested = (ReasonCode.ARCHIVE_NESTED, "an archive within an archive is not opened; unpack it")
    hidden = (ReasonCode.NOT_A_SCAN, "a hidden file")
    assert list(found.values()) == [hidden, hidden, nested, nested, (None, "")]
    unpack_archive(archive, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000005.nii.gz"]


@pytest.mark.parametrize(
    "name",
    [
        "../CANARY",
        "a/../../CANARY",
        "/etc/CANARY",
        "\\CANARY",
        "C:\\CANARY",
        "C:CANARY",
        "a\\..\\CANARY",
        "\\\\host\\CANARY",
    ],
)
def test_names_that_climb_out_refuse_the_whole_archive(pack, tmp_path, name):
    assert refusal(pack({"good": b"x", name: b"y"}), tmp_path) == ReasonCode.ARCHIVE_UNSAFE


def test_a_name_with_a_nul_is_refused(pack, tmp_path):
    archive = pack({"goodXname": b"x"})
    archive.write_bytes(archive.read_bytes().replace(b"goodXname", b"good\0name"))
    assert refusal(archive, tmp_path) == ReasonCode.ARCHIVE_UNSAFE


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    link = zipfile.ZipInfo("CANARY")
    link.create_system, link.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert refusal(tmp_path / "link.zip", tmp_path) == ReasonCode.ARCHIVE_UNSAFE


def test_encryption_is_refused(pack, tmp_path):
    archive = pack({"CANARY": b"x" * 100})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    archive.write_bytes(data)
    assert refusal(archive, tmp_path) == ReasonCode.ARCHIVE_ENCRYPTED


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_whose_memory_the_archive_decides_are_refused(pack, tmp_path, method):
    assert refusal(pack({"CANARY": b"x" * 100}, compression=method), tmp_path) == ReasonCode.UNREADABLE


def test_a_bomb_is_refused_by_what_it_says_of_itself(pack, tmp_path, monkeypatch):
    archive = pack({"bomb": bytes(3_000_000)})
    assert archive.stat().st_size < 4000
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 1_000_000)
    assert refusal(archive, tmp_path) == ReasonCode.ARCHIVE_TOO_LARGE
    honest = pack({"scan": bytes(range(256)) * 12_000}, "honest.zip", zipfile.ZIP_STORED)
    unpack_archive(honest, tmp_path / "honest")
    monkeypatch.setattr(archives, "MAX_BYTES", 3_000_000)
    assert refusal(honest, tmp_path) == ReasonCode.ARCHIVE_TOO_LARGE


def test_a_bomb_that_lies_about_its_size_is_cut_at_what_it_says(pack, tmp_path):
    archive = pack({"bomb": bytes(3_000_000)})
    data = archive.read_bytes().replace(struct.pack("<I", 3_000_000), struct.pack("<I", 1000))
    archive.write_bytes(data)
    assert [member.size for member in list_archive(archive)] == [1000]
    with pytest.raises(UnsupportedScanError, match="damaged") as caught:  # its checksum is of other bytes
        unpack_archive(archive, tmp_path / "out")
    assert caught.value.code == ReasonCode.UNREADABLE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.zip"]


def test_files_and_table_of_contents_are_bounded(pack, tmp_path, monkeypatch):
    archive = pack({f"{number}": b"" for number in range(50)})
    monkeypatch.setattr(archives, "MAX_FILES", 49)
    assert refusal(archive, tmp_path) == ReasonCode.ARCHIVE_TOO_LARGE
    monkeypatch.setattr(archives, "DIRECTORY_BYTES", 1000)
    assert refusal(archive, tmp_path) == ReasonCode.ARCHIVE_TOO_LARGE


def test_a_full_disk_is_seen_before_unpacking(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SPARE_BYTES", 1 << 60)
    with pytest.raises(UnsupportedScanError, match=r"GB free|--workdir") as caught:
        unpack_archive(pack({"scan": b"x"}), tmp_path / "out")
    assert caught.value.code == ReasonCode.ARCHIVE_TOO_LARGE


def test_a_folder_that_can_not_be_written_is_no_fault_of_the_archive(pack, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't write"):
        unpack_archive(pack({"scan": b"x"}), tmp_path / "file" / "out")


def test_damage_is_refused(pack, tmp_path):
    archive = pack({"CANARY": bytes(range(256)) * 20}, compression=zipfile.ZIP_STORED)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:200] + b"X" + whole[201:])
    with pytest.raises(UnsupportedScanError, match="damaged") as caught:
        unpack_archive(archive, tmp_path / "out")
    assert "CANARY" not in str(caught.value)
    archive.write_bytes(whole[:-30])
    assert refusal(archive, tmp_path) == ReasonCode.UNREADABLE
    archive.write_bytes(b"PK")
    assert refusal(archive, tmp_path) == ReasonCode.UNREADABLE


def sample() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in (("a/IM1", 900), ("a/b.nii.gz", 50), ("c", 0)):
            archive.writestr(name, bytes(range(size % 251)) * 3)
    return stream.getvalue()


SAMPLE = sample()
EDITS = st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6)


@given(EDITS, st.integers(0, 30))
def test_mutated_archives_are_unpacked_or_refused(tmp_path_factory, edits, cut):
    data = bytearray(SAMPLE)
    for place, value in edits:
        data[place] = value
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "x.zip").write_bytes(data[: len(data) - cut])
    try:
        names = {member.name for member in list_archive(folder / "x.zip") if member.code is None}
        unpack_archive(folder / "x.zip", folder / "out")
    except UnsupportedScanError:
        assert [path.name for path in folder.iterdir()] == ["x.zip"]
    else:
        assert {path.name for path in (folder / "out").iterdir()} == names
