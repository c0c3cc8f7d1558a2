"""google-auth, as it comes, with credentials that are worth nothing, as a program would use them for its calls."""

import json
import os
import sys

import google.auth
import requests
from google.auth import identity_pool, impersonated_credentials
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2 import service_account

E = os.environ
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
TARGET = "acted-as@p.iam.gserviceaccount.com"


def loaded(file, scopes=SCOPES):
    return google.auth.load_credentials_from_file(E[file], scopes=scopes)[0]


def key_access():
    return loaded("KEY_FILE")


def key_id():
    return service_account.IDTokenCredentials.from_service_account_file(
        E["KEY_FILE"], target_audience=E["AUDIENCE"]
    )


def impersonated_access():
    return impersonated_credentials.Credentials(
        loaded("KEY_FILE"), target_principal=TARGET, target_scopes=SCOPES
    )


def impersonated_id():
    return impersonated_credentials.IDTokenCredentials(
        impersonated_access(), target_audience=E["AUDIENCE"], include_email=True
    )


def login_access():
    return loaded("LOGIN_FILE")


def federation_access():
    # By the default credentials it would also ask cloudresourcemanager.googleapis.com for the project's name.
    return identity_pool.Credentials.from_file(E["FEDERATION_FILE"], scopes=SCOPES)


def federation_acting_access():
    return identity_pool.Credentials.from_file(E["FEDERATION_ACTING_FILE"], scopes=SCOPES)


for way in sys.argv[1:]:
    try:
        made = globals()[way]()
        made.refresh(Request(requests.Session()))
        url = E["API_URL"] if way.endswith("_access") else E["URL"]
        answer = AuthorizedSession(made).get(url)
        found = {"token": made.token, "status": answer.status_code, "said": answer.json()}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"way": way, **found}), flush=True)
