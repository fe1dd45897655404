"""Publish one notice on an ntfy server: `python -m ocwatchd.daemon.ntfy`, with the notice as JSON on standard input.

This runs in a separate process, so that the daemon itself connects only to loopback addresses and does not load TLS
(about 10 MiB). The address arrives on standard input, because every user can read a command line.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

TIMEOUT = 20.0
"""Timeout of the request, in seconds."""
MAX_TEXT = 4000
"""Maximum length of the text, in bytes; ntfy turns a message of more than 4,096 bytes into an attachment."""


class Publication(NamedTuple):
    """A request to an ntfy server: its address, its JSON body, and the credentials from the topic's address."""

    url: str
    body: bytes
    authorization: str | None


def publication(address: str, title: str, text: str) -> Publication:
    """Return the request that publishes `text` to the topic `address` (`https://ntfy.sh/TOPIC`).

    The body is JSON and is sent to the server's root path, because a title in a header could contain only ASCII
    (https://docs.ntfy.sh/publish/#publish-as-json). A user and password in the address become a header.
    """
    parts = urllib.parse.urlsplit(address)
    root, _, topic = parts.path.rstrip("/").rpartition("/")
    user, _, host = parts.netloc.rpartition("@")
    url = urllib.parse.urlunsplit((parts.scheme, host, f"{root}/", parts.query, ""))
    body = {"topic": urllib.parse.unquote(topic), "title": title, "message": shortened(text), "tags": ["hourglass"]}
    credentials = urllib.parse.unquote(user).encode()
    return Publication(
        url, json.dumps(body).encode(), f"Basic {base64.b64encode(credentials).decode()}" if user else None
    )


def shortened(text: str) -> str:
    """Return the beginning of `text`, at most MAX_TEXT bytes in UTF-8."""
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


def main() -> int:
    """Publish the notice from standard input. Return 0 on success. On failure, print one line with the reason on
    standard error and return 1.
    """
    notice = json.load(sys.stdin)
    headers = {"Content-Type": "application/json"}
    try:
        request = publication(notice["address"], notice["title"], notice["text"])
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        # Schemes other than http and https cannot occur here, because the configuration rejects them.
        asked = urllib.request.Request(request.url, request.body, headers, method="POST")  # noqa: S310
        with urllib.request.urlopen(asked, timeout=TIMEOUT):  # noqa: S310
            return 0
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"the server responded with status {error.code}\n")
    except (OSError, ValueError) as error:
        # Only the reason is printed, because the text of the error may contain the address, whose topic is a secret.
        reason = getattr(error, "reason", error)
        sys.stderr.write(f"{getattr(reason, 'strerror', None) or type(reason).__name__}\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
