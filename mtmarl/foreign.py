"""Text from outside, made fit to print and to record: on one line, no terminal codes, no credentials."""

import re

# Before the host. A password may hold "/" and "@"; what follows a port is a path.
_USER = re.compile(r"^(?:[^/@]*@)+|^(?![^/:]*:\d*(?:/|$))[^/:@]*:.*@")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bAKIA[0-9A-Z]{16}\b")
_LONGEST = 1000  # characters of an address


def redacted(text: str) -> str:
    """The text without user names, passwords, queries and tokens of the addresses in it."""
    return _TOKEN.sub("…", "".join(_without_credentials(part) for part in re.split(r"(\s+)", text)))


def _without_credentials(word: str) -> str:
    if "://" not in word:
        return word
    word = word[:_LONGEST]
    address = word.rstrip(":,.;)]'\"")
    scheme, separator, rest = address.partition("://")
    url, mark, fragment = _USER.sub("…@", rest).partition("#")
    url, query, _ = url.partition("?")
    if mark and not re.match("sha256=[0-9a-f]+", fragment):
        fragment = "…"
    url = _without_credentials(url) + query + "…" * bool(query)  # Another address may follow.
    return scheme + separator + url + mark + fragment + word[len(address) :]


def holds_credentials(address: str) -> bool:
    """Whether an address holds what must not be recorded; also where that cannot be told, as with any query."""
    address = "".join(address.split())
    return redacted(address) != address or ("://" not in address and bool(re.search(":.*@", address)))


def shown(text: object) -> str:
    """The text for a terminal: no control characters but line breaks and tabs, no credentials."""
    clean = "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text)
    )
    return redacted(clean)


def line(text: object, most: int = 240) -> str:
    """The beginning of a foreign message as one line for a terminal."""
    return shown(" ".join(str(text).split()))[:most]
