"""Text without what must not leave the machine: private keys, passwords, tokens."""

from __future__ import annotations

import re

LEFT_OUT = "(left out)"

PRIVATE_KEY = re.compile(
    r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?(-----END \1PRIVATE KEY-----|\Z)", re.DOTALL
)

# name: value, name=value, "name": "value"; the name may be the end of a longer one (etcdPassword).
NAMED = re.compile(
    r"""(?ix)
    (?P<name> [\w.-]* (?: password | passwd | passphrase | secret | token | authorization | api[-_]?key )
              ["']? [ \t]* [:=] [ \t]* )
    (?P<value> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | (?:bearer\s+|basic\s+)? [^\s,;}\]]+ )
    """
)

# user:password@host
IN_URL = re.compile(r"(?P<before>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@]+:)[^\s/@]+(?P<after>@)")


def without_secrets(text: str) -> str:
    """``text`` with ``(left out)`` where something of that kind stands."""
    text = PRIVATE_KEY.sub(LEFT_OUT, text)
    text = IN_URL.sub(rf"\g<before>{LEFT_OUT}\g<after>", text)
    return NAMED.sub(replaced, text)


def replaced(found: re.Match[str]) -> str:
    """The name, and quotes if the value had some, so that JSON stays JSON."""
    value = found["value"]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{found['name']}{quote}{LEFT_OUT}{quote}"
