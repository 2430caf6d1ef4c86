"""`medseg listen` says in one sentence what keeps it from listening."""

from __future__ import annotations

import sys

import pytest

WORDS = ("--model", "model", "--allow", "PACS")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((*WORDS,), "results have nowhere to go"),
        ((*WORDS, "--send-to", "somewhere"), "write it as AE@host:port"),
        ((*WORDS, "--send-to", "A@b:104", "--tls-key", "x"), "tls.certificate"),
        ((*WORDS, "--send-to", "A@b:104", "--policy", "X=1"), "--policy X=1"),
    ],
)
def test_wrong_words_end_with_a_sentence(medseg, tmp_path, words, sentence):
    result = medseg("listen", tmp_path / "queue", *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_title_is_one_problem(medseg, tmp_path):
    words = ("--model", "model", "--allow", "A_TITLE_THAT_IS_TOO_LONG", "--send-to", "A@b:104")
    result = medseg("listen", tmp_path / "queue", *words)
    assert result.exit_code == 2
    assert "1 to 16 ASCII characters" in result.stderr
    assert "at least 1 item" not in result.stderr


def test_a_caller_must_be_named(medseg, tmp_path):
    result = medseg("listen", tmp_path / "queue", "--model", "model", "--send-to", "A@b:104")
    assert result.exit_code == 2
    assert "--allow" in result.stderr


def test_without_the_extra_it_says_what_to_install(medseg, tmp_path, monkeypatch):
    for name in ("medseg.pacs.listener", "medseg.pacs.node"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    result = medseg("listen", tmp_path / "queue", *WORDS, "--send-to", "A@b:104")
    assert result.exit_code == 2
    assert "pip install 'medseg[pacs]'" in result.stderr
