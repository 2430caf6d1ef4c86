"""Digests against hashlib, and facts that carry nobody's name."""

import hashlib
import json
import subprocess
import sys

import pytest

from medseg import provenance


def test_digest_of_files_follows_content_and_order(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x" * 3_000_000)
    second.write_bytes(b"y")
    expected = hashlib.sha256(
        "\n".join(hashlib.sha256(data).hexdigest() for data in (b"x" * 3_000_000, b"y")).encode()
    ).hexdigest()
    assert provenance.digest_files([first, second]) == expected
    assert provenance.digest_files([second, first]) != expected
    renamed = first.rename(tmp_path / "c")
    assert provenance.digest_files([renamed, second]) == expected
    second.write_bytes(b"z")
    assert provenance.digest_files([renamed, second]) != expected


def test_digest_of_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        provenance.digest_files([tmp_path / "missing"])


def test_digest_json_tells_values_apart():
    assert provenance.digest_json({"a": [1, 2]}) == provenance.digest_json({"a": [1, 2]})
    assert provenance.digest_json({"a": [1, 2]}) != provenance.digest_json({"a": [2, 1]})


def test_versions_leave_out_what_is_not_installed():
    versions = provenance.package_versions(["numpy", "no-such-package-at-all"])
    assert list(versions) == ["numpy"]


def test_machine_is_json_without_host_or_user_name():
    text = json.dumps(provenance.machine())
    import getpass
    import socket

    assert socket.gethostname() not in text
    assert provenance.machine()["cores"] >= 1
    assert f'"{getpass.getuser()}"' not in text


def test_timestamp_is_utc():
    assert provenance.timestamp().endswith("+00:00")


def test_layer_zero_imports_nothing_heavy():
    code = (
        "import sys, medseg.config, medseg.plan, medseg.labels, medseg.volume, medseg.provenance\n"
        "print([name for name in ('torch', 'monai', 'scipy', 'nibabel', 'pydicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
