"""Where an API server is, whom to take for it, and who asks: all that a client needs to be told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from meshd.errors import ConfigError
from meshd.kubeapi.credentials import Bearer, Fixed, TokenFile, Trust

# What kubelet gives every container of a pod (kubernetes.io/docs, "Accessing the API from a Pod").
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """``endpoints``: base URLs of servers of one cluster, each as good as another; they are tried in turn.

    ``namespace``: where objects are looked for that somebody named without one. ``impersonate``: headers that a request
    carries besides the token.
    """

    endpoints: tuple[str, ...]
    bearer: Bearer = field(default_factory=Fixed)
    trust: Trust = field(default_factory=Trust)
    namespace: str = "default"
    impersonate: Mapping[str, str] = field(default_factory=dict)

    def at(self, endpoints: Iterable[str], server_name: str = "") -> Access:
        """The same access at other ``endpoints`` (host:port or URL); none named: as it is.

        ``server_name``: the name in their certificates, if it is not what is dialled.

        Raises:
            ConfigError: one of them is no endpoint.
        """
        urls = tuple(endpoint_url(text) for text in endpoints)
        trust = replace(self.trust, server_name=server_name or self.trust.server_name)
        return replace(self, endpoints=urls or self.endpoints, trust=trust)


def in_cluster(directory: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] | None = None) -> Access:
    """Access as the pod's service account, whose token is rotated.

    The endpoint is the service address of `kubernetes`; whoever answers that address himself names others (Access.at).

    Raises:
        ConfigError: this is no pod, or it has no service account.
    """
    environment = os.environ if environment is None else environment
    token, authorities = directory / "token", directory / "ca.crt"
    for path in (token, authorities):
        if not path.exists():
            raise ConfigError(
                f"{path} is missing: this is no pod with a service account; name a kubeconfig instead"
            )
    host, port = (
        environment.get("KUBERNETES_SERVICE_HOST", ""),
        environment.get("KUBERNETES_SERVICE_PORT", ""),
    )
    bracketed = f"[{host}]" if ":" in host else host
    namespace = directory / "namespace"
    return Access(
        endpoints=(f"https://{bracketed}:{port or 443}",) if host else (),
        bearer=TokenFile(token),
        trust=Trust(authorities),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )


def endpoint_url(text: str) -> str:
    """The base URL of ``text``: ``host:port``, ``host`` (port 6443), ``[v6]:port`` or a URL, without a slash at the end.

    Raises:
        ConfigError: it is none of these.
    """
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{text!r} is no endpoint of an API server: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ConfigError(
            f"{text!r} is no endpoint of an API server: it must be HOST:PORT or https://HOST:PORT"
        )
    if port is None and "://" not in text:
        # The port that an API server listens on unless it is told otherwise.
        url = f"https://{parts.netloc}:6443{parts.path}"
    return url.rstrip("/")
