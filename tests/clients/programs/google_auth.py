"""google-auth, as it comes: every credential type that it has."""

import base64
import json
import os
import sys

import google.auth
import google.auth.iam
import requests
from google.auth import aws, compute_engine, identity_pool, impersonated_credentials, jwt, pluggable
from google.auth.transport.requests import Request
from google.oauth2 import credentials as user
from google.oauth2 import id_token, service_account

E = os.environ
SCOPES = [E["SCOPE"]]
REQUEST = Request(requests.Session())


def refreshed(credentials):
    credentials.refresh(REQUEST)
    return credentials


def default(file=None):
    if file:
        E["GOOGLE_APPLICATION_CREDENTIALS"] = E[file]
    try:
        return google.auth.default(scopes=SCOPES)
    finally:
        E.pop("GOOGLE_APPLICATION_CREDENTIALS", None)


def metadata_access():
    credentials, project = default()
    return {"access_token": refreshed(credentials).token, "project": project}


def metadata_id():
    return {"id_token": id_token.fetch_id_token(REQUEST, E["AUDIENCE"])}


def key_access():
    return {"access_token": refreshed(default("KEY_FILE")[0]).token}


def key_id():
    made = service_account.IDTokenCredentials.from_service_account_file(
        E["KEY_FILE"], target_audience=E["AUDIENCE"]
    )
    return {"id_token": refreshed(made).token}


def self_signed():
    info = json.load(open(E["KEY_FILE"]))
    made = jwt.Credentials.from_service_account_info(info, audience=E["API_AUDIENCE"])
    return {"self_signed": refreshed(made).token.decode()}


def login():
    info = json.load(open(E["LOGIN_FILE"]))
    made = refreshed(user.Credentials.from_authorized_user_info(info).with_token_uri(E["OAUTH_URL"]))
    return {"access_token": made.token, "login_token": made.id_token}


def federation(name="URL", kind=identity_pool):
    # By the default credentials it would look the project up at an address that can't be led elsewhere.
    made = kind.Credentials.from_file(E[f"FEDERATION_{name}_FILE"], scopes=SCOPES)
    return {"access_token": refreshed(made).token}


def federation_text():
    return federation("TEXT")


def federation_aws():
    return federation("AWS", aws)


def federation_program():
    return federation("PROGRAM", pluggable)


def leading(name, call):
    # The library has no public way to lead these calls elsewhere.
    setattr(google.auth.iam, name, f"{E['IAM_URL']}/v1/projects/-/serviceAccounts/{{}}:{call}")


def impersonated():
    return impersonated_credentials.Credentials(
        default("KEY_FILE")[0],
        target_principal=E["TARGET"],
        target_scopes=SCOPES,
        iam_endpoint_override=f"{E['IAM_URL']}/v1/projects/-/serviceAccounts/{E['TARGET']}:generateAccessToken",
    )


def impersonated_access():
    return {"access_token": refreshed(impersonated()).token}


def impersonated_file():
    # It reads the account alone from the address in the file.
    leading("_IAM_ENDPOINT", "generateAccessToken")
    return {"access_token": refreshed(default("IMPERSONATED_FILE")[0]).token}


def impersonated_id():
    leading("_IAM_IDTOKEN_ENDPOINT", "generateIdToken")
    made = impersonated_credentials.IDTokenCredentials(
        impersonated(), target_audience=E["AUDIENCE"], include_email=True
    )
    return {"id_token": refreshed(made).token}


def impersonated_sign():
    leading("_IAM_SIGN_ENDPOINT", "signBlob")
    return {"signature": base64.b64encode(impersonated().sign_bytes(E["TO_SIGN"].encode())).decode()}


def metadata_sign():
    leading("_IAM_SIGN_ENDPOINT", "signBlob")
    made = refreshed(default()[0])
    signer = google.auth.iam.Signer(REQUEST, made, made.service_account_email)
    return {"signature": base64.b64encode(signer.sign(E["TO_SIGN"].encode())).decode()}


def metadata_signed_id():
    # What IDTokenCredentials does by itself: has an assertion signed, and takes that to the token endpoint.
    leading("_IAM_SIGN_ENDPOINT", "signBlob")
    made = compute_engine.IDTokenCredentials(REQUEST, E["AUDIENCE"], token_uri=E["OAUTH_URL"])
    return {"id_token": refreshed(made).token}


def verify():
    token = compute_engine.IDTokenCredentials(None, E["AUDIENCE"], use_metadata_identity_endpoint=True)
    claims = id_token.verify_token(
        refreshed(token).token, REQUEST, E["AUDIENCE"], certs_url=E["CERTS_URL"], clock_skew_in_seconds=10
    )
    return {"id_token": token.token, "said": claims["email"]}


for way in sys.argv[1:]:
    try:
        found = globals()[way]()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"way": way, **found}), flush=True)
