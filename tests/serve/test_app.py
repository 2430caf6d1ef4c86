from __future__ import annotations

import errno
import gzip
import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from shutil import copyfile
from threading import Event

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.batch.summary import CaseResult
from medseg.config import BatchConfig
from medseg.errors import DatasetError
from medseg.io.dicom_write import write_series
from medseg.io.nifti import read_mask
from medseg.io.slicer import read_seg_nrrd
from medseg.review.entry import EntryWriter
from medseg.review.folder import open_review
from medseg.review.versions import versions_of
from medseg.serve import desk
from medseg.serve.refusal import RequestError
from medseg.serve.settings import Limits
from medseg.serve.tokens import Tokens
from medseg.volume import Mask

from .conftest import CASES, NAME, scan_of, truth_of

NAMES = [{"name": "liver", "idx": 1}, {"name": "tumour", "idx": 2}]


def label_file(values: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    image = nib.Nifti1Image(values.astype(np.uint8), scan_of(0).grid.affine if affine is None else affine)
    return gzip.compress(image.to_bytes())


def as_slicer_numbers(seed: int = 0, order: tuple[int, int] = (2, 5)) -> np.ndarray:
    truth = truth_of(seed)
    return sum((truth == value) * number for number, value in enumerate(order, start=1))


def submit(http, case: str, content: bytes, names=NAMES, file: str = "/tmp/abc.nii.gz", **more):
    params = json.dumps({"label_info": names, **more})
    return http.put(f"/datastore/label?image={case}", files={"label": (file, content)}, data={"params": params})


@pytest.fixture
def no_model(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('{"liver": 2, "tumour": 5}')
    return {"model": None, "labels": path}


def test_info_numbers_the_labels_as_slicer_does(client):
    told = client().get("/info/").json()
    assert told["labels"] == ["liver", "tumour"]
    assert told["models"][NAME]["labels"] == {"liver": 1, "tumour": 2}
    assert told["datastore"] == {"total": len(CASES), "completed": 0, "label_tags": {"final": 0, "original": 0}}
    assert "config" not in told  # by which Slicer's module knows a server that is too old


def test_a_mask_lies_on_exactly_the_scans_grid_in_every_format(client, tmp_path):
    http = client()
    masks = {}
    for ending in (".nii.gz", ".nrrd", ".seg.nrrd"):
        params = {"params": json.dumps({"result_extension": ending})}
        answer = http.post(f"/infer/{NAME}?image=alpha&output=image", data=params)
        assert answer.status_code == 200
        path = tmp_path / f"mask{ending}"
        path.write_bytes(answer.content)
        masks[ending] = read_mask(path) if ending == ".nii.gz" else read_seg_nrrd(path).mask
        assert masks[ending].grid.matches(scan_of(0).grid)
    own = read_mask(http.service.segmenter.mask(http.service.studies.case("alpha"))).array
    assert set(np.unique(own)) == {0, 2, 5}
    assert np.array_equal(masks[".seg.nrrd"].array, own)
    numbered = np.select([own == 2, own == 5], [1, 2])
    assert np.array_equal(masks[".nii.gz"].array, numbered)
    assert np.array_equal(masks[".nrrd"].array, numbered)
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(http.get("/datastore/image?image=alpha").content)
    assert np.array_equal(nib.load(scan).get_fdata(), scan_of(0).array[0])
    itk = sitk.ReadImage(tmp_path / "mask.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(itk).T, numbered)


def test_the_answer_of_an_inference_has_a_json_and_a_file(client):
    answer = client().post(f"/infer/{NAME}?image=beta")
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    parts = answer.content.split(b"--" + boundary)
    assert len(parts) == 4
    assert b'name="params"' in parts[1]
    assert json.loads(parts[1].partition(b"\r\n\r\n")[2])["label_names"] == {"liver": 1, "tumour": 2}
    assert b'name="image"; filename="beta.nii.gz"' in parts[2]
    assert gzip.decompress(parts[2].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))


def test_the_same_scan_is_segmented_once(client):
    http = client()
    infer = http.service.segmenter._worker.predictor.infer
    calls = []
    http.service.segmenter._worker.predictor.infer = lambda prepared: calls.append(1) or infer(prepared)
    for _ in range(3):
        assert http.post(f"/infer/{NAME}?image=alpha&output=json").status_code == 200
    assert len(calls) == 1


@pytest.mark.parametrize("order", [(2, 5), (5, 2)])
def test_labels_are_taken_by_name_and_kept_as_versions(client, no_model, order):
    http = client(**no_model)
    names = [{"name": {2: "liver", 5: "tumour"}[value], "idx": n} for n, value in enumerate(order, start=1)]
    told = submit(http, "alpha", label_file(as_slicer_numbers(order=order)), names, client_id="Reviewer 7").json()
    assert told == {"image": "alpha", "label": "alpha", "tag": "final", "version": "v001", "status": "corrected"}
    folder = http.service.desk.folder / "reviews" / "alpha"
    assert np.array_equal(read_mask(folder / "v001" / "mask.nii.gz").array, truth_of(0))
    assert "Reviewer" not in (folder / "v001" / "review.json").read_text()
    assert (
        submit(http, "alpha", label_file(as_slicer_numbers(order=order)), names, client_id="Reviewer 7").json()[
            "version"
        ]
        == "v001"
    )
    changed = as_slicer_numbers(order=order)
    changed[0, 0, 0] = 1
    assert submit(http, "alpha", label_file(changed), names, client_id="Reviewer 7").json()["version"] == "v002"
    served = http.get("/datastore/label?label=alpha&tag=final").content
    shown = nib.Nifti1Image.from_bytes(gzip.decompress(served)).get_fdata()
    assert np.array_equal(shown > 0, changed > 0)
    assert http.get("/datastore/").json()["completed"] == 1


@pytest.mark.parametrize(
    ("values", "names", "words"),
    [
        (as_slicer_numbers(), [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}], "spleen"),
        (as_slicer_numbers(), [{"name": "liver", "idx": 1}], "only 1 segments are named"),
        (as_slicer_numbers(), [{"name": "liver", "idx": 2}, {"name": "tumour", "idx": 3}], "can't be told"),
        (as_slicer_numbers(), [{"name": "liver", "idx": 1}, {"name": "liver", "idx": 2}], "two segments are liver"),
        (np.zeros((40, 40, 40)), NAMES, "draw it on the scan itself"),
        (np.ones((5, 5, 5)), NAMES, None),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_a_sentence(client, no_model, values, names, words):
    http = client(**no_model)
    affine = None if words else np.diag([1.1, 1, 1, 1])
    answer = submit(http, "alpha", label_file(values, affine), names)
    assert answer.status_code == 422
    assert (words or "its voxels are not the scan's") in answer.json()["detail"]
    assert not (http.service.desk.folder / "reviews").exists()
    assert not list(http.service.incoming.glob("*"))


def test_an_unknown_case_is_not_found_whatever_it_is_called(client):
    http = client()
    for name in ("nobody", "../alpha", "..", "/etc/passwd", "alpha.nii.gz", "", "alpha/../beta"):
        for path in ("/datastore/image", "/datastore/image/info"):
            assert http.get(path, params={"image": name}).status_code == 404
        assert http.get("/datastore/label", params={"label": name}).status_code == 404
        assert submit(http, name.replace("/", "%2F"), b"").status_code == 404


def test_the_most_doubtful_case_comes_first_and_another_after_its_label(client):
    http = client()
    for case in ("alpha", "beta", "gamma"):
        http.post(f"/infer/{NAME}?image={case}&output=json")
    priorities = {case: http.service.desk.known(case).priority for case in ("alpha", "beta", "gamma")}
    order = sorted(priorities, key=priorities.get, reverse=True)
    for case in order:
        assert http.post("/activelearning/uncertainty", json={"client_id": "one"}).json()["id"] == case
        mask = http.get(f"/datastore/label?label={case}&tag=original").content
        assert submit(http, case, mask).json()["status"] == "accepted"
    assert http.post("/activelearning/uncertainty").json()["id"] in {"delta", "epsilon"}  # not segmented yet


def test_two_people_get_two_cases(client):
    http = client()
    given = {http.post("/activelearning/random", json={"client_id": who}).json()["id"] for who in ("a", "b", "c")}
    assert len(given) == 3
    assert http.post("/activelearning/diverse", json={"client_id": "d"}).json()["id"] not in given


def test_a_scan_that_cannot_be_read_is_passed_over(client, studies, no_model, tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for case in ("alpha", "beta"):
        (folder / f"{case}.nii.gz").write_bytes((studies / f"{case}.nii.gz").read_bytes())
    http = client(studies=folder, **no_model)
    (folder / "alpha.nii.gz").write_bytes(b"\0" * 400)
    assert {http.post("/activelearning/random").json()["id"] for _ in range(6)} == {"beta"}
    assert http.get("/datastore/image?image=alpha").status_code == 422


def test_review_goes_without_a_model(client, no_model):
    http = client(**no_model)
    told = http.get("/info/").json()
    assert told["models"] == told["trainers"] == {}
    assert told["labels"] == ["liver", "tumour"]
    assert list(told["strategies"]) == ["diverse", "random"]
    assert submit(http, "beta", label_file(as_slicer_numbers(1))).status_code == 200
    assert http.post(f"/infer/{NAME}?image=alpha").status_code == 404
    assert http.post("/train/x").status_code == 404


def test_a_full_disk_is_told_and_leaves_nothing_half_written(client, no_model, monkeypatch):
    http = client(**no_model)
    http.get("/datastore/image?image=alpha")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medseg.io.nifti._write_file", full)
    answer = submit(http, "alpha", label_file(as_slicer_numbers()))
    assert answer.status_code == 507
    assert "disk is full" in answer.json()["detail"]
    assert not list((http.service.desk.folder / "reviews").rglob("*.*"))
    assert not list(http.service.incoming.glob("*"))
    monkeypatch.undo()
    assert submit(http, "alpha", label_file(as_slicer_numbers())).json()["version"] == "v001"
    monkeypatch.setattr("shutil.copyfileobj", full)
    assert submit(http, "alpha", label_file(as_slicer_numbers())).status_code == 507


def test_without_the_token_nobody_comes_in(client):
    tokens = Tokens(bytes(range(32)))
    http = client(tokens)
    for path in ("/", "/info/", "/datastore/", "/openapi.json", "/key/wrong/info/", "/key/", "/auth/token/valid"):
        assert http.get(path).status_code == 401
    assert http.get("/info/", headers={"Authorization": "Bearer é".encode("latin-1")}).status_code == 401
    assert http.get("/auth/").json()["enabled"] is True
    wrong = {"username": "me", "password": "x", "grant_type": "password"}
    assert http.post("/auth/token", data=wrong).status_code == 401
    given = http.post("/auth/token", data={**wrong, "password": tokens.token}).json()
    header = {"Authorization": f"{given['token_type']} {given['access_token']}"}
    assert http.get("/auth/token/valid", headers=header).json() == {"username": "me"}
    assert http.get("/info/", headers=header).status_code == 200
    assert http.get(f"/key/{tokens.token}/info/").status_code == 200
    assert http.get(f"/key/{tokens.token}/auth/").json()["enabled"] is False


def test_bearer_tokens_end_and_cannot_be_made_up():
    now = [1000.0]
    tokens = Tokens(bytes(32), clock=lambda: now[0])
    given = tokens.give("rev-1")
    assert tokens.user_of(f"bearer {given}") == "rev-1"
    assert tokens.user_of(f"bearer {given[:-1]}0") is None
    assert Tokens(bytes(31) + b"x").user_of(f"bearer {given}") is None
    now[0] += 13 * 3600
    assert tokens.user_of(f"bearer {given}") is None


def test_pages_of_other_sites_are_not_served_without_a_token(client):
    http = client()
    assert http.get("/info/", headers={"Host": "evil.example:8000"}).status_code == 403
    assert http.get("/info/", headers={"Host": "localhost:8000"}).status_code == 200
    script = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, script):
        for path in (f"/batch/infer/{NAME}", "/train/", "/activelearning/random"):
            answer = http.post(path, headers=headers)
            assert answer.status_code == 403
            assert "open the server's own address" in answer.json()["detail"]
    assert http.post("/activelearning/random", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200
    link = {**script, "Sec-Fetch-Mode": "navigate"}  # in a report, which is a file
    assert http.get("/", headers=link).status_code == 200


def test_the_address_that_is_shown_leads_to_where_links_begin(client):
    tokens = Tokens(bytes(range(32)))
    http = client(tokens)
    page = http.get(f"/key/{tokens.token}")
    assert page.status_code == 200
    assert page.url.path == f"/key/{tokens.token}/"
    assert http.get(f"/key/{tokens.token}", follow_redirects=False).headers["location"] == f"{tokens.token}/"
    assert http.get("/key/wrong").status_code == 401


def test_strangers_may_send_a_password_and_no_more(client):
    http = client(Tokens(bytes(range(32))))
    answer = http.post("/auth/token", files={"password": ("a.bin", bytes(20_000))})
    assert answer.status_code == 413
    assert "larger than 0.01 MB" in answer.json()["detail"]


def test_one_inference_runs_and_so_many_wait(client, monkeypatch):
    http = client(limits=Limits(waiting=1))
    segmenter, may_go_on = http.service.segmenter, Event()

    class Slow:
        def run(self, tasks):
            assert may_go_on.wait(20)
            return [CaseResult(tasks[0].case.id, "failed", "UNEXPECTED", "as played")]

    monkeypatch.setattr(segmenter, "_worker", Slow())
    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(http.post, f"/infer/{NAME}?image=alpha") for _ in range(3)]
        next(as_completed(asked))  # one place to run, one to wait
        may_go_on.set()
    assert sorted(answer.result().status_code for answer in asked) == [429, 500, 500]


def test_uploads_are_bounded(client, no_model):
    http = client(limits=Limits(upload_mb=0.1), **no_model)
    assert submit(http, "alpha", bytes(200_000)).status_code == 413

    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="label"; filename="a.nii"\r\n\r\n'
        for _ in range(100):
            yield bytes(10_000)

    head = {"content-type": "multipart/form-data; boundary=x"}
    assert http.put("/datastore/label?image=alpha", content=endless(), headers=head).status_code == 413


def test_a_bomb_in_a_label_is_not_inflated(client, no_model):
    http = client(**no_model)
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 1000, 1000))
    header.set_data_dtype(np.uint8)
    header["magic"] = b"n+1\0"
    header["vox_offset"] = 352
    header.set_sform(np.eye(4), 1)
    bomb = gzip.compress(header.binaryblock + bytes(4 + 10_000_000), 1)
    answer = submit(http, "alpha", bomb)
    assert answer.status_code == 422
    for sizes in (b"sizes: 2000 1000 1000", b"SIZES:\t2000\t1000\t1000", b"sizes: 1 1 1\nsizes: 2000 1000 1000"):
        seg = b"NRRD0004\ntype: unsigned char\ndimension: 3\n" + sizes + b"\nencoding: gzip\n\n" + bomb
        answer = submit(http, "alpha", seg, file="x.seg.nrrd")
        assert answer.status_code == 422
        assert "draw it on the scan itself" in answer.json()["detail"]
    answer = submit(http, "alpha", b"NRRD0004\nsizes: many\n\n", file="x.seg.nrrd")
    assert "does not say how many voxels" in answer.json()["detail"]


def test_many_clients_at_once_get_right_answers(client):
    http = client()

    def one(number: int) -> int:
        case = CASES[number % len(CASES)]
        if number % 3 == 0:
            return submit(http, case, label_file(as_slicer_numbers()), client_id=f"r{number}").status_code
        if number % 3 == 1:
            answer = http.post(f"/infer/{NAME}?image={case}&output=json")
            return 200 if answer.status_code == 429 else answer.status_code
        return http.get(f"/datastore/image?image={case}").status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(one, range(24)))
    assert set(statuses) == {200}
    review = open_review(http.service.desk.folder)
    assert {case.case for case in review.manifest.cases} == set(CASES)
    assert sum(len(versions_of(review.path, case)) for case in CASES) == 8


def test_no_prediction_is_redrawn_while_a_label_is_compared_with_it(client, monkeypatch):
    http, comparing, drawn = client(), Event(), Event()
    redraw, compare = EntryWriter.redraw, desk.import_submission

    def other(writer, entry, mask, origin):
        entry = redraw(writer, entry, Mask(np.full_like(mask.array, 2), mask.grid), origin)
        drawn.set()
        return entry

    def slow(*arguments):
        comparing.set()
        drawn.wait(2)
        return compare(*arguments)

    monkeypatch.setattr(EntryWriter, "redraw", other)
    monkeypatch.setattr(desk, "import_submission", slow)
    with ThreadPoolExecutor(1) as thread:
        sent = thread.submit(submit, http, "beta", label_file(as_slicer_numbers()))
        assert comparing.wait(60)
        assert http.post(f"/infer/{NAME}?image=beta&output=json").status_code == 200
        assert sent.result().status_code == 200, sent.result().text


def test_what_is_not_offered_is_refused_in_words(client):
    http = client()
    for method, path in (
        ("PUT", "/datastore/image?image=x"), ("DELETE", "/datastore/label?id=alpha&tag=final"),
        ("PUT", "/model/organs"), ("GET", "/model/organs"),
    ):  # fmt: skip
        assert http.request(method, path).status_code == 403
    assert http.put("/session/", files={"files": ("a.nii", b"x")}).status_code == 406


def test_a_server_that_starts_again_knows_what_was_labelled(client, no_model):
    http = client(**no_model)
    submit(http, "gamma", label_file(as_slicer_numbers(2)))
    again = client(**no_model)
    assert again.get("/datastore/").json()["completed"] == 1
    assert set(again.get("/datastore/?output=all").json()["objects"]["gamma"]["labels"]) == {"final"}


def test_labels_of_other_values_need_a_folder_of_their_own(client, no_model):
    submit(client(**no_model), "gamma", label_file(as_slicer_numbers(2)))
    no_model["labels"].write_text('{"liver": 2, "tumour": 3}')
    with pytest.raises(DatasetError, match=r"labels of this server .* keep them apart"):
        client(**no_model)


@pytest.fixture
def own_studies(studies, tmp_path):
    """A studies folder of one scan, which may be replaced."""
    folder = tmp_path / "studies"
    folder.mkdir()
    copyfile(studies / "alpha.nii.gz", folder / "alpha.nii.gz")
    return folder


@pytest.mark.parametrize("is_running", [True, False])
def test_a_label_counts_only_while_the_scan_is_the_one_that_it_is_of(
    client, no_model, studies, own_studies, is_running
):
    http = client(studies=own_studies, **no_model)
    submit(http, "alpha", label_file(as_slicer_numbers()))
    assert http.post("/activelearning/random").json() == {}
    for scan, is_labelled in (("delta", False), ("alpha", True)):
        copyfile(studies / f"{scan}.nii.gz", own_studies / "alpha.nii.gz")
        if is_running:
            http.get("/datastore/image/info?image=alpha")
        else:
            http = client(studies=own_studies, **no_model)
        assert http.get("/datastore/").json()["completed"] == is_labelled
        assert http.post("/activelearning/random").json().get("id") == (None if is_labelled else "alpha")
        assert http.get("/datastore/label?label=alpha").status_code == (200 if is_labelled else 404)
        shown = gzip.decompress(http.get("/datastore/image?image=alpha").content)
        expected = nib.load(own_studies / "alpha.nii.gz").get_fdata()
        assert np.array_equal(nib.Nifti1Image.from_bytes(shown).get_fdata(), expected)


def test_a_scan_that_is_out_of_reach_for_a_while_is_taken_as_unchanged(client, no_model, own_studies):
    http = client(studies=own_studies, **no_model)
    http.get("/datastore/image?image=alpha")
    (own_studies / "alpha.nii.gz").unlink()
    assert submit(http, "alpha", label_file(as_slicer_numbers())).status_code == 200
    assert http.get("/datastore/image?image=alpha").status_code == 200


def test_a_mask_of_a_scan_that_changed_meanwhile_is_not_kept(client, studies, own_studies):
    http = client(studies=own_studies)
    service, case = http.service, http.service.studies.case("alpha")
    record = service.segmenter.segment(case)
    copyfile(studies / "delta.nii.gz", own_studies / "alpha.nii.gz")
    with pytest.raises(RequestError, match="alpha: the scan changed while it was segmented; segment it again"):
        service.desk.draw(case, record, service.segmenter.mask(case), service.segmenter.review(record))
    assert http.post(f"/infer/{NAME}?image=alpha&output=json").status_code == 200
    assert service.desk.known("alpha").prediction


def test_a_scan_that_cannot_be_read_is_called_by_its_pseudonym(client, no_model, own_studies, tmp_path):
    content = gzip.decompress((own_studies / "alpha.nii.gz").read_bytes())
    (own_studies / "Muster_Anna_1950.nii.gz").write_bytes(gzip.compress(content[: len(content) // 2]))
    http = client(studies=own_studies, batch=BatchConfig(key=tmp_path / "key", pseudonymize=True), **no_model)
    answers = [http.get("/datastore/image/info", params={"image": case}) for case in http.service.studies.cases]
    (detail,) = [answer.json()["detail"] for answer in answers if answer.status_code == 422]
    assert detail.startswith("case-")
    assert "Muster" not in detail


def test_the_log_names_no_path_and_no_person(client, studies, no_model):
    http = client(**no_model)
    submit(http, "alpha", label_file(as_slicer_numbers()), client_id="Dr Anna Muster")
    http.get("/datastore/image?image=Anna^Muster")
    log = http.get("/logs/").text
    assert "alpha: label v001, corrected" in log
    assert "Anna" not in log
    assert str(studies) not in log


def test_dicom_comes_as_a_volume_under_a_pseudonym(client, tmp_path, no_model):
    write_series(scan_of(0), tmp_path / "dicom", patient="Canary^Anna")
    http = client(studies=tmp_path / "dicom", **no_model)
    (case,) = http.service.studies.cases
    assert case.startswith("case-")
    content = gzip.decompress(http.get(f"/datastore/image?image={case}").content)
    volume = nib.Nifti1Image.from_bytes(content)
    assert volume.shape == http.service.desk.known(case).grid.shape
    assert np.array_equal(np.sort(volume.get_fdata().ravel()), np.sort(scan_of(0).array.ravel()))
    assert b"Canary" not in content + http.get("/datastore/?output=all").content + http.get("/logs/").content
