from __future__ import annotations

from .conftest import CASES, NAME


def test_info(client):
    told = client().get("/info/").json()
    assert told["labels"] == ["liver", "tumour"]
    assert told["models"][NAME]["labels"] == {"liver": 1, "tumour": 2}
    assert told["datastore"] == {"total": len(CASES), "completed": 0, "label_tags": {"final": 0, "original": 0}}
