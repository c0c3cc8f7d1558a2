"""The services that call others with an ID token of their own: Scheduler, Tasks, Pub/Sub, Workflows, Eventarc.

Owns what each of them sends. Composed by `app`, commanded over HTTP by `control`. The token is Google's, for the
audience that was configured or else the whole URL, in the name of a service account. Sources:
https://cloud.google.com/scheduler/docs/reference/rpc/google.cloud.scheduler.v1#httptarget,
https://cloud.google.com/tasks/docs/creating-http-target-tasks, https://cloud.google.com/pubsub/docs/push,
https://cloud.google.com/workflows/docs/authenticate-from-workflow, https://cloud.google.com/workflows/docs/http-requests
(its User-Agent), https://cloud.google.com/eventarc/docs/cloudevents
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, final, get_args

from aiohttp import ClientSession, ClientTimeout

from sidecar.emulator.instance import PROJECT
from sidecar.emulator.keys import SigningKey
from sidecar.emulator.metadata import ISSUER
from sidecar.emulator.principals import Principals

Service = Literal["scheduler", "tasks", "pubsub", "workflows", "eventarc"]

EMAIL: Final = f"caller@{PROJECT}.iam.gserviceaccount.com"
"""The service account that they call as, unless told."""
BODY_LIMIT: Final = 64 * 1024
"""Bytes of an answer that are kept."""
_SECONDS: Final = 60.0


class Called(NamedTuple):
    """The result of a call; never the token."""

    status: int
    body: str
    """Its beginning."""
    audience: str
    email: str


@final
class ConnectingServices:
    """All of them; `now` gives Unix seconds."""

    def __init__(
        self,
        key: SigningKey,
        principals: Principals,
        now: Callable[[], float],
        *,
        token_lifetime: float,
        ca_file: Callable[[], Path],
    ) -> None:
        """`ca_file` is the CA of the stand-in's own targets."""
        self.token_lifetime = token_lifetime
        self._key = key
        self._principals = principals
        self._now = now
        self._ca_file = ca_file

    async def call(
        self,
        service: str,
        url: str,
        *,
        audience: str | None = None,
        email: str = EMAIL,
        data: str = "{}",
        ca_file: str | None = None,
    ) -> Called:
        """Send what `service` would; `ca_file` is a CA to trust beside the system's, instead of the stand-in's own.

        ValueError for a service that there is not, ClientError where nobody answers, OSError for a CA file that can't
        be read.
        """
        if service not in get_args(Service):
            raise ValueError(f"no service is called {service!r}; there are {', '.join(get_args(Service))}")
        audience = url if audience is None else audience
        headers, sent = _request(service, data, self._now())
        headers = {**headers, "Authorization": f"Bearer {self._token(audience, email)}"}
        context = ssl.create_default_context()
        # On every version of Python: from 3.13 on it sets others, which the real services do not go by.
        context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        # Beside the system's CAs: the real services call public targets too.
        context.load_verify_locations(ca_file or self._ca_file())
        async with (
            ClientSession(timeout=ClientTimeout(_SECONDS)) as session,
            session.post(url, data=sent, headers=headers, ssl=context, allow_redirects=False) as answer,
        ):
            body = b""
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) >= BODY_LIMIT:
                    break
            text = body[:BODY_LIMIT].decode("utf-8", "replace")
            return Called(answer.status, text, audience, email)

    def _token(self, audience: str, email: str) -> str:
        now = self._now()
        account = self._principals.add(email)
        return self._key.sign(
            {
                "aud": audience,
                "azp": account.unique_id,
                "email": email,
                "email_verified": True,
                "exp": int(now + self.token_lifetime),
                "iat": int(now),
                "iss": ISSUER,
                "sub": account.unique_id,
            }
        )


def _push(data: str, moment: str) -> Mapping[str, object]:
    """A wrapped message of Pub/Sub."""
    message = {
        "data": base64.b64encode(data.encode()).decode("ascii"),
        "messageId": "1234567890",
        "message_id": "1234567890",
        "publishTime": moment,
        "publish_time": moment,
        "attributes": {},
    }
    return {"message": message, "subscription": f"projects/{PROJECT}/subscriptions/emulated"}


def _request(service: str, data: str, now: float) -> tuple[Mapping[str, str], bytes]:
    """Headers and body as the service sends them."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    match service:
        case "scheduler":
            return {
                "User-Agent": "Google-Cloud-Scheduler",
                "Content-Type": "application/octet-stream",
                "X-CloudScheduler": "true",
                "X-CloudScheduler-JobName": "emulated-job",
                "X-CloudScheduler-ScheduleTime": moment,
            }, data.encode()
        case "tasks":
            return {
                "User-Agent": "Google-Cloud-Tasks",
                "Content-Type": "application/octet-stream",
                "X-CloudTasks-QueueName": "emulated-queue",
                "X-CloudTasks-TaskName": "1234567890",
                "X-CloudTasks-TaskRetryCount": "0",
                "X-CloudTasks-TaskExecutionCount": "0",
                "X-CloudTasks-TaskETA": f"{now:.6f}",
            }, data.encode()
        case "pubsub":
            return {
                "User-Agent": "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)",
                "Content-Type": "application/json",
                "From": "noreply@google.com",
            }, json.dumps(_push(data, moment)).encode()
        case "eventarc":
            return {
                "User-Agent": "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)",
                "Content-Type": "application/json",
                "ce-id": "1234567890",
                "ce-source": f"//pubsub.googleapis.com/projects/{PROJECT}/topics/emulated",
                "ce-specversion": "1.0",
                "ce-time": moment,
                "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
            }, data.encode()
    return {
        "User-Agent": "GoogleCloudWorkflows; (+https://cloud.google.com/workflows/docs)",
        "Content-Type": "application/json",
    }, data.encode()
