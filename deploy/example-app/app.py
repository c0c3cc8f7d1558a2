"""An app that calls another service, and has no auth code: GET / says what `billing` answered."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen


class App(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            with urlopen(os.environ["IDTOKEN_SIDECAR_URL_BILLING"], timeout=30) as answer:
                status, body = answer.status, answer.read()
        except HTTPError as refused:
            status, body = refused.code, refused.read()
        self.send_response(200 if status == 200 else 502)
        self.end_headers()
        self.wfile.write(f"billing answered {status}\n".encode() + body)


ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), App).serve_forever()
