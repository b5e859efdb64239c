"""Text from outside: no credentials, nothing that a terminal obeys."""

import time

import pytest

from mtmarl.foreign import holds_credentials, redacted, shown


@pytest.mark.parametrize(
    "address",
    [
        "hf://datasets/lab/toys@main",
        "hf://datasets/lab/toys@refs/pr/1/folder#sha256=0123456789ab",
        "s3://bucket/user@org/x",
        "https://host:80/a@b/c",
        "https://host/x:y@z",
        "file:///x/y@z",
        "~/vaults@v1",
    ],
)
def test_addresses_are_shown_as_they_are(address):
    assert redacted(address) == address and not holds_credentials(address)


@pytest.mark.parametrize(
    "address, left",
    [
        ("https://me:secret@host/x", "https://…@host/x"),
        ("https://secret@host", "https://…@host"),
        ("https://:secret@host", "https://…@host"),
        ("https://me:sec/ret@host/x", "https://…@host/x"),
        ("https://me:secret@secret@host/x", "https://…@host/x"),
        ("https://host/x?token=secret&a=1", "https://host/x?…"),
        ("https://host/x#access_token=secret", "https://host/x#…"),
        ("simplecache::https://me:secret@host/x", "simplecache::https://…@host/x"),
        ("a=https://me:secret@h,b=https://me:secret@i", "a=https://…@h,b=https://…@i"),
        ("a=https://secret@h/x,b=https://me:secret@i", "a=https://…@h/x,b=https://…@i"),
        ("hf://me:secret@datasets/lab/toys", "hf://…@datasets/lab/toys"),
        ("HTTPS://ME:secret@host", "HTTPS://…@host"),
        ("hf://datasets/lab/hf_secret90123456789012345678", "hf://datasets/lab/…"),
    ],
)
def test_credentials_are_redacted_in_any_text(address, left):
    assert holds_credentials(address)
    assert redacted(f"it says '{address}', twice: {address} .") == f"it says '{left}', twice: {left} ."


@pytest.mark.parametrize(
    "address", ["https://me:my secret@host/x", "me:secret@host", "https:/me:secret@host"]
)
def test_odd_spellings_hold_credentials_too(address):
    assert holds_credentials(address)


def test_terminal_codes_are_spelled_out():
    assert shown("a\x1b[31m\u202e\r\x9b\n\tö") == "a\\x1b[31m\\u202e\\r\\x9b\n\tö"


def test_long_texts_take_no_time():
    began = time.perf_counter()
    for text in (
        "a." * 10**5,
        "a://" * 10**4,
        "a://b:" * 10**4,
        "@" * 10**5,
        "a://" + "x?" * 10**5,
        "a://" * 10**5,
    ):
        redacted(text)
    assert time.perf_counter() - began < 5
