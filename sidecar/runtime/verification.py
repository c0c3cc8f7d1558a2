"""How chains of certificates are verified.

Owns the flags for OpenSSL. Called by what makes a context for a client: `net.tls_files`, `tokens.fetch.transport`.
They are set on every version of Python, because `ssl` and urllib3 set others by themselves from 3.13 on.
"""

from __future__ import annotations

import ssl
from typing import Final

FLAGS: Final = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
"""Whatever is in the file of CAs is trusted, be it a root or a CA below one, as curl and Go do it.

Not Python's VERIFY_X509_STRICT: it refuses CAs without a key usage, such as those of `openssl req -x509`, which
curl and Go take.
"""
