"""Subject tokens from an executable.

Owns running the program that an `external_account` file names under `credential_source.executable`, and reading its
answer. Called by `federation`, in a worker thread, as google-auth's supplier of subject tokens. The rules are those
of `google.auth.pluggable`, which is not used because it passes on the whole environment of this process, ignores this
fetch's deadline, and reads a lost exit code as 0. The rule: the program runs only if `ALLOW_EXECUTABLES` is 1, and
its answer counts only if it ended by itself with exit code 0. Errors quote only a failure's `code` and `message`,
without anything that is or looks like a secret. Source: https://google.aip.dev/auth/4117, "Determining the subject
token in executable-sourced credentials".
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import heard
from sidecar.grammar.terminal import printable
from sidecar.runtime.regular_files import read
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.grants import subprocess_run
from sidecar.tokens.token import is_life, seconds_in

ALLOW_EXECUTABLES: Final = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES"
DEFAULT_SECONDS: Final = 30.0
"""google-auth's default for an executable."""
_SHORTEST: Final = 5.0
_LONGEST: Final = 120.0
"""Seconds: the longest time that google-auth lets a file ask for."""
_VERSION: Final = 1
_SAID: Final = 300
"""Most characters of a failure's message."""
_TOKENS: Final = {
    "urn:ietf:params:oauth:token-type:jwt": "id_token",
    "urn:ietf:params:oauth:token-type:id_token": "id_token",
    "urn:ietf:params:oauth:token-type:saml2": "saml_response",
}
"""The key that holds the subject token, by the token type in the answer."""


def seconds_of(executable: Mapping[str, Any]) -> float:
    """How long the file lets its executable run. DEFAULT_SECONDS if it gives no number."""
    milliseconds = seconds_in(executable.get("timeout_millis"))
    return milliseconds / 1000 if milliseconds is not None and milliseconds > 0 else DEFAULT_SECONDS


@final
class Executable:
    """The executable of one file. `environ` is what it may see of this process's environment."""

    def __init__(
        self,
        info: Mapping[str, Any],
        where: str,
        environ: Mapping[str, str],
        flight: Flight,
        *,
        account: str | None = None,
    ) -> None:
        """`account` is the service account that the file leads to, which the executable is told."""
        self._info = info
        self._where = where
        self._environ = environ
        self._flight = flight
        self._account = account
        source = info["credential_source"].get("executable")
        self._source: Mapping[str, Any] = source if isinstance(source, dict) else {}

    def get_subject_token(self, context: object, request: object) -> str:
        """See `google.auth.identity_pool.SubjectTokenSupplier`; raises SUBJECT_TOKEN_FAILED."""
        del context, request
        if self._environ.get(ALLOW_EXECUTABLES) != "1":
            raise self._failed(
                f"is run only where {ALLOW_EXECUTABLES}=1 is set: set it if you trust that file", self._named
            )
        command, kept_in = self._command(), self._output_file()
        if kept_in is not None and (kept := self._kept(kept_in)) is not None:
            return kept
        printed = self._run(command, kept_in)
        if not printed.strip() and kept_in is not None:
            printed = self._left_in(kept_in)
        if not printed.strip():
            raise self._failed("printed nothing: run it by hand, with the variables of AIP-4117 set")
        return self._token(_object(printed))

    @property
    def _named(self) -> str:
        return f"The executable in {self._where}"

    def _failed(self, what: str, who: str | None = None) -> SidecarError:
        return SidecarError(Reason.SUBJECT_TOKEN_FAILED, f"{who or self._named} {what}.")

    def _command(self) -> list[str]:
        command = self._source.get("command")
        words: list[str] = []
        if isinstance(command, str):
            with suppress(ValueError):
                words = shlex.split(command)
        if not words or "\0" in "".join(words):
            raise self._failed("has no usable `command`: write it as you would in a shell")
        asked = self._source.get("timeout_millis")
        if asked and not _SHORTEST <= (seconds_in(asked) or 0.0) / 1000 <= _LONGEST:
            raise self._failed("cannot be run: its `timeout_millis` must be 5000 to 120000")
        return words

    def _output_file(self) -> str | None:
        file = self._source.get("output_file")
        return file if isinstance(file, str) and file and "\0" not in file else None

    def _kept(self, file: str) -> str | None:
        """The subject token that an earlier run left in its `output_file`, if it is valid for a while."""
        try:
            found = _object(read(file, subprocess_run.OUTPUT_LIMIT).text)
        except (OSError, UnicodeDecodeError):
            return None
        if found is None or "expiration_time" not in found:
            return None
        with suppress(SidecarError):
            return self._token(found)
        return None

    def _left_in(self, file: str) -> str:
        """The text that a run without output left in its `output_file`; empty if there is none."""
        why = ""
        try:
            return read(file, subprocess_run.OUTPUT_LIMIT).text
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError:
            why = "it is not text"
        except OSError as error:
            why = (error.strerror or "it cannot be read").lower()
        raise self._failed(f"printed nothing, and its `output_file` cannot be used: {why}")

    def _run(self, command: list[str], kept_in: str | None) -> str:
        seconds = seconds_of(self._source)
        environ = {
            **self._environ,
            "GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE": str(self._info["audience"]),
            "GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE": str(self._info["subject_token_type"]),
            "GOOGLE_EXTERNAL_ACCOUNT_ID": self._account or "",
            "GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE": "0",
            "GOOGLE_EXTERNAL_ACCOUNT_REVOKE": "0",
            **(
                {} if self._account is None else {"GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL": self._account}
            ),
            **({} if kept_in is None else {"GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE": kept_in}),
        }
        try:
            ended = subprocess_run.run(command, environ, self._flight, seconds=seconds)
        except OSError as error:
            # Not its text, which quotes the command, whose words can be secrets.
            raise self._failed(
                f"could not be run ({(error.strerror or 'for no known reason').lower()}): see that it is there, may "
                "be run, and that this machine has what its first line names"
            ) from None
        if ended.late:
            raise self._failed("did not end within its `timeout_millis`: see what holds it up")
        if ended.too_long:
            raise self._failed(
                f"printed more than {subprocess_run.OUTPUT_LIMIT} bytes, so not a subject token"
            )
        if ended.code != 0:
            raise self._failed(
                f"{_end(ended.code)}. The variables that it sees are listed in docs/configuration.md "
                "(`environment`); run it by hand to see what it says"
            )
        return ended.stdout

    def _token(self, found: Mapping[str, Any] | None) -> str:
        """The subject token in an answer; raises SUBJECT_TOKEN_FAILED."""
        if found is None:
            raise self._failed("printed no JSON object: see what it prints")
        version = found.get("version")
        if isinstance(version, bool) or not isinstance(version, int) or version > _VERSION:
            raise self._failed(f"answered in a `version` other than {_VERSION}")
        if found.get("success") is not True:
            raise self._failed(self._refusal(found))
        if "expiration_time" in found:
            ends_at, now_at = seconds_in(found["expiration_time"]), self._flight.clock.wall()
            if ends_at is None or not is_life(ends_at - now_at):
                raise self._failed("gave an `expiration_time` that no token has: it is in Unix seconds")
            if ends_at < now_at:
                raise self._failed("gave a subject token that has expired: see whether it keeps one too long")
        field = _TOKENS.get(str(found.get("token_type")))
        if field is None:
            raise self._failed(f"gave a `token_type` that is none of {', '.join(_TOKENS)}")
        token = found.get(field)
        if not isinstance(token, str) or not token:
            raise self._failed(f"gave no `{field}`")
        return token

    def _refusal(self, found: Mapping[str, Any]) -> str:
        """What the executable says about its failure (AIP-4117: `code` and `message`), without the secrets that it
        got or gave.
        """
        secret = {
            *self._environ.values(),
            *self._command()[1:],
            *(str(found.get(field)) for field in _TOKENS.values()),
        }
        words = [
            str(word) for word in (found.get("code"), found.get("message")) if isinstance(word, str | int)
        ]
        said = ": ".join(word for word in words if word.strip())
        shown = printable(heard(said, secret), limit=_SAID).rstrip(" .")
        if not shown:
            return "said `success: false` and not why: run it by hand to see"
        return f"said `success: false`: {shown}"


def _end(code: int | None) -> str:
    if code is None:
        return "ended in a way that is not known"
    return f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"


def _object(text: str) -> Mapping[str, Any] | None:
    """The JSON object in a text. Never raises, because `json`'s errors contain the text."""
    try:
        found = json.loads(text.strip("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
