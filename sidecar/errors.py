"""What can go wrong, each with one name.

Owns `SidecarError` and the closed set of reasons. A reason is the one word that the log line, the metric
label and the answer to the app share; its HTTP status and its RFC 9209 Proxy-Status error type follow
from it here and nowhere else. Pure: no I/O, no clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, final

from sidecar.grammar.terminal import printable

GONE: Final = 499
"""The status of a request whose app left before the answer: in logs and metrics, since nobody is left to read it."""


class Source(StrEnum):
    """Whose fault it is."""

    APP = "app"
    UPSTREAM = "upstream"
    TOKEN = "token"
    SELF = "self"


class Reason(StrEnum):
    """Every reason; docs/errors.md has one entry for each."""

    # the app's request
    MALFORMED_REQUEST = "malformed_request"
    TOO_MANY_FRAMES = "too_many_frames"
    BAD_HOST = "bad_host"
    HEADER_CONFLICT = "header_conflict"
    CALLER_REFUSED = "caller_refused"
    NO_ROUTE = "no_route"
    PATH_AMBIGUOUS = "path_ambiguous"
    NOT_ALLOWED = "not_allowed"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    TARGET_TOO_LONG = "target_too_long"
    HEAD_TOO_LARGE = "head_too_large"
    EXPECTATION_FAILED = "expectation_failed"
    METHOD_NOT_CARRIED = "method_not_carried"
    CODING_NOT_CARRIED = "coding_not_carried"
    LOOP = "loop"
    CLIENT_GONE = "client_gone"
    CLIENT_STALLED = "client_stalled"
    # the upstream
    DNS_FAILED = "dns_failed"
    DNS_TIMEOUT = "dns_timeout"
    ADDRESS_FORBIDDEN = "address_forbidden"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_TIMEOUT = "tls_timeout"
    TLS_CERTIFICATE_EXPIRED = "tls_certificate_expired"
    TLS_CERTIFICATE_NOT_YET_VALID = "tls_certificate_not_yet_valid"
    TLS_WRONG_NAME = "tls_wrong_name"
    TLS_SELF_SIGNED = "tls_self_signed"
    TLS_UNKNOWN_CA = "tls_unknown_ca"
    TLS_BAD_CHAIN = "tls_bad_chain"
    TLS_REVOKED = "tls_revoked"
    TLS_CRL_UNUSABLE = "tls_crl_unusable"
    TLS_CERTIFICATE = "tls_certificate"
    TLS_PROTOCOL_TOO_OLD = "tls_protocol_too_old"
    TLS_NO_COMMON_CIPHER = "tls_no_common_cipher"
    TLS_CLIENT_CERTIFICATE_MISSING = "tls_client_certificate_missing"
    TLS_CLIENT_CERTIFICATE_REFUSED = "tls_client_certificate_refused"
    TLS_ALERT = "tls_alert"
    TLS_NOT_SPOKEN = "tls_not_spoken"
    TLS_CLOSED = "tls_closed"
    TLS_RENEGOTIATION = "tls_renegotiation"
    TLS_FAILED = "tls_failed"
    TLS_FILES = "tls_files"
    EGRESS_PROXY_UNREACHABLE = "egress_proxy_unreachable"
    EGRESS_PROXY_TIMEOUT = "egress_proxy_timeout"
    EGRESS_PROXY_AUTHENTICATION = "egress_proxy_authentication"
    EGRESS_PROXY_DENIED = "egress_proxy_denied"
    EGRESS_PROXY_FAILED = "egress_proxy_failed"
    EGRESS_PROXY_MALFORMED = "egress_proxy_malformed"
    UPSTREAM_CLOSED = "upstream_closed"
    UPSTREAM_MALFORMED = "upstream_malformed"
    UPSTREAM_HEAD_TOO_LARGE = "upstream_head_too_large"
    UPSTREAM_INCOMPLETE = "upstream_incomplete"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_NO_HTTP2 = "upstream_no_http2"
    UPGRADE_FAILED = "upgrade_failed"
    RESPONSE_TIMEOUT = "response_timeout"
    SEND_TIMEOUT = "send_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TUNNEL_IDLE = "tunnel_idle"
    TOTAL_TIMEOUT = "total_timeout"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    # the token
    CREDENTIAL_NOT_FOUND = "credential_not_found"
    CREDENTIAL_INVALID = "credential_invalid"
    CREDENTIAL_MISMATCH = "credential_mismatch"
    SELF_IMPERSONATION = "self_impersonation"
    REAUTHENTICATION_NEEDED = "reauthentication_needed"
    SUBJECT_TOKEN_FAILED = "subject_token_failed"
    GCLOUD_FAILED = "gcloud_failed"
    CLOCK_OFF = "clock_off"
    TOKEN_TIMEOUT = "token_timeout"
    TOKEN_ENDPOINT_UNREACHABLE = "token_endpoint_unreachable"
    TOKEN_ENDPOINT_FAILED = "token_endpoint_failed"
    TOKEN_RATE_LIMITED = "token_rate_limited"
    TOKEN_DENIED = "token_denied"
    IMPERSONATION_DENIED = "impersonation_denied"
    API_DISABLED = "api_disabled"
    SCOPE_INSUFFICIENT = "scope_insufficient"
    QUOTA_PROJECT_DENIED = "quota_project_denied"
    NO_SERVICE_ACCOUNT = "no_service_account"
    TOKEN_MALFORMED = "token_malformed"
    TOKEN_WRONG_AUDIENCE = "token_wrong_audience"
    TOKEN_NO_EXPIRY = "token_no_expiry"
    TOKEN_INVALID = "token_invalid"
    TOKEN_EXPIRED = "token_expired"
    # the sidecar
    DRAINING = "draining"
    OVERLOADED = "overloaded"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    NO_DESCRIPTORS = "no_descriptors"
    TUNNEL_LIMIT = "tunnel_limit"
    INTERNAL = "internal"


class Meaning(NamedTuple):
    """What a reason means to callers."""

    status: int
    """The HTTP status of the answer, or `GONE`."""
    proxy_status: str
    """The `error` parameter of Proxy-Status, from the registry of RFC 9209 section 2.3."""
    source: Source
    title: str

    @property
    def grpc(self) -> int:
        """The status of a gRPC call that ends for this reason (https://grpc.io/docs/guides/status-codes/)."""
        return _GRPC.get(self.status, 14)


_GRPC: Final = {
    **{GONE: 1, 400: 3, 403: 7, 404: 12, 408: 4, 414: 8, 417: 12, 431: 8},
    **{500: 13, 501: 12, 504: 4, 508: 9},
}
"""By the status: cancelled, invalid argument, permission denied, unimplemented, deadline exceeded, resource exhausted,
internal, failed precondition; all that may be better next time is 14, unavailable."""

_APP, _UPSTREAM, _TOKEN, _SELF = Source

MEANINGS: dict[Reason, Meaning] = {
    Reason.MALFORMED_REQUEST: Meaning(400, "http_request_error", _APP, "The request is not valid HTTP"),
    Reason.TOO_MANY_FRAMES: Meaning(
        400, "http_request_error", _APP, "The app sent too many HTTP/2 frames that are part of no message"
    ),
    Reason.BAD_HOST: Meaning(400, "http_request_error", _APP, "The Host is missing, repeated or malformed"),
    Reason.HEADER_CONFLICT: Meaning(
        400, "http_request_denied", _APP, "The app set the header that the token goes in"
    ),
    Reason.CALLER_REFUSED: Meaning(403, "http_request_denied", _APP, "The caller is not allowed"),
    Reason.NO_ROUTE: Meaning(404, "destination_not_found", _APP, "No route for this host"),
    Reason.PATH_AMBIGUOUS: Meaning(
        400, "http_request_error", _APP, "The path can be read in more than one way"
    ),
    Reason.NOT_ALLOWED: Meaning(
        403, "http_request_denied", _APP, "The route does not allow this method or path"
    ),
    Reason.HEAD_TIMEOUT: Meaning(408, "http_request_error", _APP, "The request head came too slowly"),
    Reason.BODY_TIMEOUT: Meaning(408, "http_request_error", _APP, "The request body stalled"),
    Reason.TARGET_TOO_LONG: Meaning(414, "http_request_error", _APP, "The request target is too long"),
    Reason.HEAD_TOO_LARGE: Meaning(431, "http_request_error", _APP, "The request head is too large"),
    Reason.EXPECTATION_FAILED: Meaning(417, "http_request_error", _APP, "The expectation is not supported"),
    Reason.METHOD_NOT_CARRIED: Meaning(501, "http_request_denied", _APP, "The method is not supported"),
    Reason.CODING_NOT_CARRIED: Meaning(
        501, "http_request_error", _APP, "The transfer coding is not supported"
    ),
    Reason.LOOP: Meaning(508, "proxy_loop_detected", _APP, "The request came back to this instance"),
    Reason.CLIENT_GONE: Meaning(GONE, "connection_terminated", _APP, "The app left before the answer"),
    Reason.CLIENT_STALLED: Meaning(
        GONE, "connection_write_timeout", _APP, "The app stopped taking the answer"
    ),
    Reason.DNS_FAILED: Meaning(502, "dns_error", _UPSTREAM, "The upstream's name could not be resolved"),
    Reason.DNS_TIMEOUT: Meaning(504, "dns_timeout", _UPSTREAM, "Resolving the upstream's name took too long"),
    Reason.ADDRESS_FORBIDDEN: Meaning(
        502, "destination_ip_prohibited", _UPSTREAM, "The upstream's address is forbidden"
    ),
    Reason.CONNECT_REFUSED: Meaning(
        502, "connection_refused", _UPSTREAM, "The upstream refused the connection"
    ),
    Reason.CONNECT_FAILED: Meaning(
        502, "destination_ip_unroutable", _UPSTREAM, "The upstream could not be connected to"
    ),
    Reason.CONNECT_TIMEOUT: Meaning(
        504, "connection_timeout", _UPSTREAM, "Connecting to the upstream took too long"
    ),
    Reason.TLS_TIMEOUT: Meaning(
        504, "connection_timeout", _UPSTREAM, "The TLS handshake with the upstream took too long"
    ),
    Reason.TLS_CERTIFICATE_EXPIRED: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's certificate has expired"
    ),
    Reason.TLS_CERTIFICATE_NOT_YET_VALID: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's certificate is not valid yet"
    ),
    Reason.TLS_WRONG_NAME: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's certificate is for another name"
    ),
    Reason.TLS_SELF_SIGNED: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's certificate is self-signed"
    ),
    Reason.TLS_UNKNOWN_CA: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's certificate is from an unknown CA"
    ),
    Reason.TLS_BAD_CHAIN: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's chain of certificates is not valid"
    ),
    Reason.TLS_REVOKED: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's certificate is revoked"
    ),
    Reason.TLS_CRL_UNUSABLE: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The list of revoked certificates can't be used"
    ),
    Reason.TLS_CERTIFICATE: Meaning(
        502, "tls_certificate_error", _UPSTREAM, "The upstream's certificate was not accepted"
    ),
    Reason.TLS_PROTOCOL_TOO_OLD: Meaning(
        502, "tls_protocol_error", _UPSTREAM, "The upstream does not support TLS 1.2"
    ),
    Reason.TLS_NO_COMMON_CIPHER: Meaning(
        502,
        "tls_alert_received",
        _UPSTREAM,
        "The upstream shares no cipher, group or signature with this side",
    ),
    Reason.TLS_CLIENT_CERTIFICATE_MISSING: Meaning(
        502, "tls_alert_received", _UPSTREAM, "The upstream requires a client certificate"
    ),
    Reason.TLS_CLIENT_CERTIFICATE_REFUSED: Meaning(
        502, "tls_alert_received", _UPSTREAM, "The upstream rejects the client certificate"
    ),
    Reason.TLS_ALERT: Meaning(
        502, "tls_alert_received", _UPSTREAM, "The upstream broke TLS off with an alert"
    ),
    Reason.TLS_NOT_SPOKEN: Meaning(
        502, "tls_protocol_error", _UPSTREAM, "The upstream does not speak TLS on this port"
    ),
    Reason.TLS_CLOSED: Meaning(
        502, "connection_terminated", _UPSTREAM, "The upstream closed the connection in the TLS handshake"
    ),
    Reason.TLS_RENEGOTIATION: Meaning(
        502, "tls_protocol_error", _UPSTREAM, "The upstream asked for a new TLS handshake"
    ),
    Reason.TLS_FAILED: Meaning(502, "tls_protocol_error", _UPSTREAM, "TLS with the upstream failed"),
    Reason.TLS_FILES: Meaning(
        503, "proxy_configuration_error", _SELF, "A file for TLS to the upstream cannot be used"
    ),
    Reason.EGRESS_PROXY_UNREACHABLE: Meaning(
        502, "destination_unavailable", _UPSTREAM, "The egress proxy could not be reached"
    ),
    Reason.EGRESS_PROXY_TIMEOUT: Meaning(
        504, "connection_timeout", _UPSTREAM, "The egress proxy did not connect in time"
    ),
    Reason.EGRESS_PROXY_AUTHENTICATION: Meaning(
        502, "destination_unavailable", _UPSTREAM, "The egress proxy requires other credentials"
    ),
    Reason.EGRESS_PROXY_DENIED: Meaning(
        502, "destination_unavailable", _UPSTREAM, "The egress proxy does not allow this upstream"
    ),
    Reason.EGRESS_PROXY_FAILED: Meaning(
        502, "destination_unavailable", _UPSTREAM, "The egress proxy did not reach the upstream"
    ),
    Reason.EGRESS_PROXY_MALFORMED: Meaning(
        502, "destination_unavailable", _UPSTREAM, "The egress proxy answered with something else"
    ),
    Reason.UPSTREAM_CLOSED: Meaning(
        502, "connection_terminated", _UPSTREAM, "The upstream closed the connection without an answer"
    ),
    Reason.UPSTREAM_MALFORMED: Meaning(
        502, "http_protocol_error", _UPSTREAM, "The upstream's answer is not valid HTTP"
    ),
    Reason.UPSTREAM_HEAD_TOO_LARGE: Meaning(
        502, "http_response_header_section_size", _UPSTREAM, "The head of the upstream's answer is too large"
    ),
    Reason.UPSTREAM_INCOMPLETE: Meaning(
        502, "http_response_incomplete", _UPSTREAM, "The upstream's answer was cut off"
    ),
    Reason.UPSTREAM_RESET: Meaning(
        502, "http_protocol_error", _UPSTREAM, "The upstream ended the request's stream"
    ),
    Reason.UPSTREAM_NO_HTTP2: Meaning(
        502, "http_protocol_error", _UPSTREAM, "The upstream does not speak HTTP/2"
    ),
    Reason.UPGRADE_FAILED: Meaning(
        502, "http_upgrade_failed", _UPSTREAM, "The upstream switched to another protocol"
    ),
    Reason.RESPONSE_TIMEOUT: Meaning(
        504, "http_response_timeout", _UPSTREAM, "The upstream did not answer in time"
    ),
    Reason.SEND_TIMEOUT: Meaning(
        504, "connection_write_timeout", _UPSTREAM, "The upstream stopped taking the request"
    ),
    Reason.TUNNEL_IDLE: Meaning(
        504, "connection_read_timeout", _UPSTREAM, "The upgraded connection was idle too long"
    ),
    Reason.TOTAL_TIMEOUT: Meaning(
        504, "http_response_timeout", _UPSTREAM, "Request and answer together took too long"
    ),
    Reason.DEADLINE_EXCEEDED: Meaning(
        504, "http_response_timeout", _UPSTREAM, "The call's own deadline has passed"
    ),
    Reason.IDLE_TIMEOUT: Meaning(504, "connection_read_timeout", _UPSTREAM, "The upstream stopped sending"),
    Reason.CREDENTIAL_NOT_FOUND: Meaning(503, "proxy_configuration_error", _TOKEN, "No credential was found"),
    Reason.CREDENTIAL_INVALID: Meaning(
        503, "proxy_configuration_error", _TOKEN, "The credential cannot be used"
    ),
    Reason.CREDENTIAL_MISMATCH: Meaning(
        503, "proxy_configuration_error", _TOKEN, "The credential cannot give this kind of token"
    ),
    Reason.SELF_IMPERSONATION: Meaning(
        503, "proxy_configuration_error", _TOKEN, "A service account would impersonate itself"
    ),
    Reason.REAUTHENTICATION_NEEDED: Meaning(503, "proxy_configuration_error", _TOKEN, "The login has ended"),
    Reason.SUBJECT_TOKEN_FAILED: Meaning(
        503,
        "proxy_internal_response",
        _TOKEN,
        "The token of the other identity provider cannot be had or is not accepted",
    ),
    Reason.GCLOUD_FAILED: Meaning(503, "proxy_internal_response", _TOKEN, "gcloud gave no token"),
    Reason.CLOCK_OFF: Meaning(503, "proxy_internal_response", _TOKEN, "This machine's clock is off"),
    Reason.TOKEN_TIMEOUT: Meaning(
        503, "proxy_internal_response", _TOKEN, "The token endpoint did not answer in time"
    ),
    Reason.TOKEN_ENDPOINT_UNREACHABLE: Meaning(
        503, "proxy_internal_response", _TOKEN, "The token endpoint could not be reached"
    ),
    Reason.TOKEN_ENDPOINT_FAILED: Meaning(
        503, "proxy_internal_response", _TOKEN, "The token endpoint failed"
    ),
    Reason.TOKEN_RATE_LIMITED: Meaning(
        503, "proxy_internal_response", _TOKEN, "The token endpoint asked to slow down"
    ),
    Reason.TOKEN_DENIED: Meaning(
        503, "proxy_internal_response", _TOKEN, "The token endpoint refused the credential"
    ),
    Reason.IMPERSONATION_DENIED: Meaning(
        503, "proxy_internal_response", _TOKEN, "The credential may not act as this service account"
    ),
    Reason.API_DISABLED: Meaning(
        503, "proxy_internal_response", _TOKEN, "The IAM Credentials API is not enabled"
    ),
    Reason.SCOPE_INSUFFICIENT: Meaning(
        503, "proxy_internal_response", _TOKEN, "The access token lacks a scope"
    ),
    Reason.QUOTA_PROJECT_DENIED: Meaning(
        503, "proxy_internal_response", _TOKEN, "The quota project may not be used"
    ),
    Reason.NO_SERVICE_ACCOUNT: Meaning(
        503, "proxy_internal_response", _TOKEN, "No service account is attached"
    ),
    Reason.TOKEN_MALFORMED: Meaning(
        503,
        "proxy_internal_response",
        _TOKEN,
        "The token endpoint answered with something other than a token",
    ),
    Reason.TOKEN_WRONG_AUDIENCE: Meaning(
        503, "proxy_internal_response", _TOKEN, "The token is for another audience"
    ),
    Reason.TOKEN_NO_EXPIRY: Meaning(503, "proxy_internal_response", _TOKEN, "The token has no expiry"),
    Reason.TOKEN_INVALID: Meaning(503, "proxy_internal_response", _TOKEN, "The token has impossible times"),
    Reason.TOKEN_EXPIRED: Meaning(503, "proxy_internal_response", _TOKEN, "The token has already expired"),
    Reason.DRAINING: Meaning(503, "proxy_internal_response", _SELF, "The sidecar is shutting down"),
    Reason.OVERLOADED: Meaning(503, "connection_limit_reached", _SELF, "The sidecar is at a limit"),
    Reason.QUEUE_FULL: Meaning(
        503, "connection_limit_reached", _SELF, "Too many requests wait for a connection"
    ),
    Reason.QUEUE_TIMEOUT: Meaning(
        503, "connection_limit_reached", _SELF, "No connection became free in time"
    ),
    Reason.NO_DESCRIPTORS: Meaning(
        503, "connection_limit_reached", _SELF, "The sidecar has no file descriptor left"
    ),
    Reason.TUNNEL_LIMIT: Meaning(
        503, "connection_limit_reached", _SELF, "Too many upgraded connections are open"
    ),
    Reason.INTERNAL: Meaning(500, "proxy_internal_error", _SELF, "A fault in the sidecar"),
}
"""Total over `Reason` (a unit test holds that): one look-up where a `match` would walk the cases."""


@final
class SidecarError(Exception):
    """One thing that went wrong.

    `detail` is a full sentence for a person: what happened, with which host, file or option, and what to
    do next. It never holds a token, a key, or bytes of an answer that could be one. `retry_after` is in
    seconds from now: how long the other side asked to be left alone, where it said so. `command` is the line
    of shell that fixes it, where there is one; what it could not know stands in it in capitals. `alert` is the
    TLS alert that the upstream sent, number and name, for the parameters of RFC 9209 section 2.3.15.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        retry_after: float | None = None,
        command: str = "",
        alert: tuple[int, str] | None = None,
    ) -> None:
        detail = printable(detail)
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        self.command = printable(command) if command else ""
        self.alert = alert

    @property
    def source(self) -> Source:
        """Whose fault it is; follows from the reason."""
        return MEANINGS[self.reason].source

    @property
    def status(self) -> int:
        """The HTTP status of the answer; follows from the reason."""
        return MEANINGS[self.reason].status

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
