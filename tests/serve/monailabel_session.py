"""A person's session with MONAI Label's own client: run by a Python that has `monailabel`, told as JSON.

python monailabel_session.py ADDRESS PASSWORD FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote_plus


def main(address: str, password: str, folder: str) -> dict:
    from monailabel.client import MONAILabelClient  # not installed where the tests run
    from monailabel.client.client import MONAILabelClientException

    client = MONAILabelClient(address, tmpdir=folder, client_id="reviewer-7")
    told = {"needs_token": client.auth_enabled()}
    if password:
        client.update_auth(client.auth_token("reviewer-7", password))
        told["valid"] = client.auth_valid_token()
    told["info"] = info = client.info()
    model = next(iter(info["models"]))
    told["first"] = first = client.next_sample("uncertainty", {})
    if not password:  # as Slicer's module does: without the client, so without its bearer token
        source = f"{address}/datastore/image?image={quote_plus(first['id'])}"
        urllib.request.urlretrieve(source, Path(folder) / first["name"])
    params = {"result_extension": ".nrrd", "result_dtype": "uint8"}
    image, answer = client.infer(model, first["id"], params)
    told["infer"] = {"file": shutil.move(image, Path(folder, "predicted.nrrd")).name, "params": answer}
    info_before = client.info()["datastore"]["completed"]
    labels = [{"name": name, "idx": number} for number, name in enumerate(info["labels"], start=1)]
    corrected = client.infer(model, first["id"], {"result_extension": ".nii.gz"})[0]
    told["saved"] = client.save_label(first["id"], corrected, params={"label_info": labels})
    told["completed"] = [info_before, client.info()["datastore"]["completed"]]
    told["second"] = second = client.next_sample("uncertainty", {})
    other = client.infer(model, second["id"], {"result_extension": ".nii.gz"})[0]
    client.save_label(second["id"], other, params={"label_info": labels})
    told["objects"] = client.datastore()["objects"]
    told["original"] = Path(client.download_label(first["id"], "original")).stat().st_size
    if password:
        return told
    told["running_before"] = client.train_status(check_if_running=True)
    told["train"] = client.train_start(model, client.info()["trainers"][model]["config"])
    while client.train_status(check_if_running=True):
        time.sleep(0.2)
    told["status"] = client.train_status()
    told["stats"] = client.info()["train_stats"][model]
    told["stopped"] = client.train_stop()
    try:
        client.infer("nothing", first["id"], {})
    except MONAILabelClientException as error:
        told["refusal"] = error.msg
    return told


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
