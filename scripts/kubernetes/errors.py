"""What can go wrong with a site."""

from __future__ import annotations

from meshd.errors import MeshError


class SiteError(MeshError):
    """A site cannot be made, found or changed; the sentence says which and why."""
