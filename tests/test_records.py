"""Records are found, and whatever else lies in their place counts as none."""

import pytest
from pydantic import ValidationError

from medseg.records import Record, find_record


class Done(Record):
    by: str


def test_a_record_is_found(tmp_path):
    (tmp_path / "done.json").write_text('{"by": "me"}')
    assert find_record(tmp_path / "done.json", Done) == Done(by="me")


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"to": "me"}', b'{"by": "me", "to": "you"}', b"\xff\xfe damaged \x00"]
)
def test_what_is_no_record_counts_as_none(tmp_path, content):
    (tmp_path / "done.json").write_bytes(content)
    assert find_record(tmp_path / "done.json", Done) is None


def test_a_missing_file_counts_as_none(tmp_path):
    assert find_record(tmp_path / "done.json", Done) is None


def test_a_record_stays_as_it_was_made():
    with pytest.raises(ValidationError, match="frozen"):
        Done(by="me").by = "you"
