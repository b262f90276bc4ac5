"""Access from kubeconfig files, as kubectl reads them.

Of several files the first that names a cluster, user or context is right about it. What is not supported here is refused
by name, never passed over: a request under another identity than the file means would be worse than none.
Source: Kubernetes client-go `tools/clientcmd/api/v1` for names, `kubectl config` for the rules of merging.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from meshd.errors import ConfigError
from meshd.kubeapi.access import Access, endpoint_url
from meshd.kubeapi.credentials import Bearer, Certificate, Fixed, Pem, TokenFile, Trust
from meshd.kubeapi.exec_plugin import ExecPlugin, ExecSpec, ServerFacts

T = TypeVar("T")


class Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    proxy_url: str = ""


class User(msgspec.Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    as_user: str = msgspec.field(default="", name="as")
    as_uid: str = ""
    as_groups: tuple[str, ...] = ()
    username: str = ""
    auth_provider: object = None
    exec: ExecSpec | None = None


class Context(msgspec.Struct, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: Cluster


class NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: User


class NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: Context


class Document(msgspec.Struct, frozen=True, rename="kebab"):
    current_context: str = ""
    clusters: tuple[NamedCluster, ...] | None = None
    users: tuple[NamedUser, ...] | None = None
    contexts: tuple[NamedContext, ...] | None = None


@dataclass(frozen=True, slots=True)
class Here:
    """Something a file says, and the directory that its relative paths begin at."""

    directory: Path
    said: object


def default_paths(environment: Mapping[str, str] | None = None) -> list[Path]:
    """The files that kubectl would read: $KUBECONFIG, else ~/.kube/config."""
    environment = os.environ if environment is None else environment
    named = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [Path(environment.get("HOME", "/")) / ".kube" / "config"]


def load(*paths: Path, context: str = "") -> Access:
    """The access that ``context`` (empty: the current one) of the files at ``paths`` describes.

    Raises:
        ConfigError: no file can be read, or what it says cannot be used; names the file and what is missing.
    """
    clusters: dict[str, Here] = {}
    users: dict[str, Here] = {}
    contexts: dict[str, Here] = {}
    current = context
    # As for kubectl, one of several files may be absent; the only one may not.
    for path in [path for path in paths if len(paths) == 1 or path.exists()]:
        document = _read(path)
        directory = path.absolute().parent
        current = current or document.current_context
        for cluster in document.clusters or ():
            clusters.setdefault(cluster.name, Here(directory, cluster.cluster))
        for user in document.users or ():
            users.setdefault(user.name, Here(directory, user.user))
        for each in document.contexts or ():
            contexts.setdefault(each.name, Here(directory, each.context))
    where = ", ".join(map(str, paths))
    if not current:
        raise ConfigError(f"kubeconfig {where}: it has no current-context, and none was named")
    chosen = _named(where, "context", current, contexts, Context)[1]
    directory, cluster_said = _named(where, "cluster", chosen.cluster, clusters, Cluster)
    user_directory, user_said = (
        _named(where, "user", chosen.user, users, User) if chosen.user else (directory, User())
    )
    return _access(f"kubeconfig {where}", chosen, cluster_said, directory, user_said, user_directory)


def _read(path: Path) -> Document:
    try:
        return msgspec.convert(yaml.safe_load(path.read_bytes()) or {}, Document)
    except OSError as error:
        raise ConfigError(f"kubeconfig {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"kubeconfig {path}: {error}") from error


def _named(where: str, what: str, name: str, known: Mapping[str, Here], kind: type[T]) -> tuple[Path, T]:
    found = known.get(name)
    if found is None or not isinstance(found.said, kind):
        there = ", ".join(known) or "none"
        raise ConfigError(f"kubeconfig {where}: there is no {what} {name!r}; it has {there}")
    return found.directory, found.said


def _access(
    where: str, context: Context, cluster: Cluster, directory: Path, user: User, user_directory: Path
) -> Access:
    if not cluster.server:
        raise ConfigError(f"{where}: cluster {context.cluster!r} names no server")
    if cluster.proxy_url:
        raise ConfigError(
            f"{where}: cluster {context.cluster!r} has a proxy-url, which is not supported here"
        )
    authorities = _pem(where, directory, cluster.certificate_authority, cluster.certificate_authority_data)
    trust = Trust(authorities, cluster.tls_server_name, cluster.insecure_skip_tls_verify)
    server = endpoint_url(cluster.server)
    facts = ServerFacts(server, authorities, cluster.tls_server_name, cluster.insecure_skip_tls_verify)
    impersonate = {
        name: value
        for name, value in (
            ("Impersonate-User", user.as_user),
            ("Impersonate-Uid", user.as_uid),
            ("Impersonate-Group", ",".join(user.as_groups)),
        )
        if value
    }
    bearer = _bearer(where, context.user, user, user_directory, facts)
    return Access((server,), bearer, trust, context.namespace or "default", impersonate)


def _bearer(where: str, name: str, user: User, directory: Path, facts: ServerFacts) -> Bearer:
    if user.username:
        raise ConfigError(
            f"{where}: user {name!r} has a password, which API servers take no more (since 1.19)"
        )
    if user.auth_provider is not None:
        raise ConfigError(
            f"{where}: user {name!r} has an auth-provider, which clients lost in 1.26; use its exec plugin"
        )
    if len(user.as_groups) > 1:
        raise ConfigError(f"{where}: user {name!r} impersonates several groups, which is not supported here")
    chain = _pem(where, directory, user.client_certificate, user.client_certificate_data)
    key = _pem(where, directory, user.client_key, user.client_key_data)
    if (chain is None) != (key is None):
        raise ConfigError(f"{where}: user {name!r} has only one of client-certificate and client-key")
    shown = Certificate(chain, key) if chain is not None and key is not None else None
    if user.exec is not None:
        return ExecPlugin(user.exec, directory, facts, shown)
    if user.token_file:
        return TokenFile(directory / user.token_file, shown)
    return Fixed(user.token or None, shown)


def _pem(where: str, directory: Path, file: str, data: str) -> Pem | None:
    """Data wins over a file, as for kubectl."""
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise ConfigError(f"{where}: certificate or key data is not base64") from None
    return directory / file if file else None


def contexts_in(paths: Sequence[Path]) -> list[str]:
    """The names of all contexts, for messages and completion."""
    return [each.name for path in paths if path.exists() for each in _read(path).contexts or ()]
