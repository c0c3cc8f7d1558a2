"""gcsfs on the default credentials and on a key file: it asks for the buckets of a project."""

import json
import os
import sys

import gcsfs

E = os.environ


def listed(token):
    files = gcsfs.GCSFileSystem(token=token, endpoint_url=E["API_URL"], skip_instance_cache=True)
    files.call(
        "GET", "b", project="p", json_out=True
    )  # `ls`, less the reading of what came: the target is no Storage
    return {"calls": "storage"}


def metadata_access():
    return listed("google_default")


def key_access():
    return listed(E["KEY_FILE"])


for way in sys.argv[1:]:
    try:
        found = globals()[way]()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"way": way, **found}), flush=True)
