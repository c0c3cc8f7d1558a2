"""A Cloud Run function that calls a service which is not public, through a sidecar in its own instance.

A function's platform owns the command, so the function starts the sidecar itself: once an instance, when it is loaded.
Other runtimes than Python can be given a second container instead: see deploy/cloudrun.
"""

import atexit
import subprocess
import urllib.request

import functions_framework

SIDECAR = subprocess.Popen(["idtoken-sidecar", "run", "--config=sidecar.yaml"])
atexit.register(SIDECAR.terminate)
subprocess.run(["idtoken-sidecar", "wait", "--config=sidecar.yaml", "--timeout=30s"], check=True)


@functions_framework.http
def invoices(request):
    """GET /: what the billing service answers."""
    with urllib.request.urlopen("http://localhost:8801/invoices", timeout=30) as answer:
        return answer.read(), answer.status
