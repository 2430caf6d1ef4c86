"""A study comes, is segmented, and its results arrive; whatever happens in between, nothing is lost."""

from __future__ import annotations

from .conftest import SEG, SR, make_series, push, until


def test_a_study_comes_back_as_segmentation_and_report(listen, store, tmp_path):
    files = make_series(tmp_path / "series")
    with store.running():
        node = listen(send_to=store.address)
        assert push(node.port, files) == [0] * len(files)
        until(lambda: node.state_of() == {"done": 1})
    print(node.lines)
    assert store.kinds() == [SEG, SR]
