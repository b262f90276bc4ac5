"""How a test runs a command as somebody who is not root."""

from __future__ import annotations

# It may read whatever there is: sources and environment may lie below a directory that is root's alone.
NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
)
