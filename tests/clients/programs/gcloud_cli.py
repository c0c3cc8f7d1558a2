"""gcloud: its account is the machine's, a key's or a person's, each in a configuration of its own."""

import json
import os
import subprocess
import sys
import tempfile

E = os.environ


def gcloud(*words, **more):
    environ = {
        **E,
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        "CLOUDSDK_AUTH_TOKEN_HOST": E["OAUTH_URL"],
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS": E["IAM_URL"] + "/",
        **more,
    }
    done = subprocess.run(["gcloud", *words], env=environ, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def printed(kind, *words, file=None, user=None, federation=None):
    with tempfile.TemporaryDirectory() as directory:
        more = {"CLOUDSDK_CONFIG": directory}
        if file:
            more["CLOUDSDK_CORE_CHECK_GCE_METADATA"] = "false"
            gcloud("auth", "activate-service-account", f"--key-file={E[file]}", **more)
        if federation:
            more["CLOUDSDK_CORE_CHECK_GCE_METADATA"] = "false"
            gcloud("auth", "login", f"--cred-file={E[federation]}", **more)
        if user:
            more["CLOUDSDK_CORE_CHECK_GCE_METADATA"] = "false"
            more["CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"] = E[user]
        if kind == "access":
            return {"access_token": gcloud("auth", "print-access-token", *words, **more)}
        token = gcloud("auth", "print-identity-token", f"--audiences={E['AUDIENCE']}", *words, **more)
        return {"id_token": token}


TARGET = f"--impersonate-service-account={E['TARGET']}"
WAYS = {
    "metadata_access": lambda: printed("access"),
    "metadata_id": lambda: printed("id", "--token-format=full"),
    "key_access": lambda: printed("access", file="KEY_FILE"),
    "key_id": lambda: printed("id", file="KEY_FILE"),
    "login": lambda: printed("access", user="LOGIN_FILE"),
    "federation": lambda: printed("access", federation="FEDERATION_URL_FILE"),
    "federation_text": lambda: printed("access", federation="FEDERATION_TEXT_FILE"),
    "federation_aws": lambda: printed("access", federation="FEDERATION_AWS_FILE"),
    "federation_program": lambda: printed("access", federation="FEDERATION_PROGRAM_FILE"),
    "impersonated_access": lambda: printed("access", TARGET, file="KEY_FILE"),
    "impersonated_id": lambda: printed("id", TARGET, "--include-email", file="KEY_FILE"),
}
for way in sys.argv[1:]:
    try:
        found = WAYS[way]()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"way": way, **found}), flush=True)
