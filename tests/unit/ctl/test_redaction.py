"""What must not leave the machine with a bug report."""

from __future__ import annotations

import pytest

from meshd.ctl.redaction import without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password: hunter2\nuser: root", "password: (left out)\nuser: root"),
        ('{"etcdPassword": "a \\" b", "x": 1}', '{"etcdPassword": "(left out)", "x": 1}'),
        ("token=abc next=1", "token=(left out) next=1"),
        ("Authorization: Bearer abc.def\nHost: x", "Authorization: (left out)\nHost: x"),
        ("api_key='a b', other", "api_key='(left out)', other"),
        ("https://user:hunter2@host/path", "https://user:(left out)@host/path"),
        ("a\n-----BEGIN EC PRIVATE KEY-----\nMIIE\n-----END EC PRIVATE KEY-----\nb", "a\n(left out)\nb"),
        ("key: /etc/meshd/server.key", "key: /etc/meshd/server.key"),
        ("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"),
        ("secret:\n  name: x", "secret:\n  name: x"),
        ('{"key": {"address": "0a600001", "port": 80}}', '{"key": {"address": "0a600001", "port": 80}}'),
    ],
)
def test_secrets_are_left_out_and_nothing_else(text: str, expected: str) -> None:
    assert without_secrets(text) == expected
