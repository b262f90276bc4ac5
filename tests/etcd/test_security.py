"""Users, tokens and certificates against a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import grpc.aio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from clustermesh import keys
from clustermesh.call import Credentials, KvOptions
from clustermesh.channel import TlsFiles, parse_endpoint
from clustermesh.errors import KvRefused, KvUnavailable, OptionsError
from clustermesh.etcdapi.etcdserverpb import rpc_pb2, rpc_pb2_grpc
from clustermesh.kv import Kv
from clustermesh.peers import Peer
from clustermesh.remote import Remote
from clustermesh.watch import Batch
from tests.etcd.certificates import Authority, authority
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_remote import share
from tests.etcd.test_watch import collect

ROOT = Credentials("root", "root-secret")


def enable_auth(etcd: EtcdProcess) -> None:
    """Switch authentication on, with ROOT and a user ``remote`` that may read what a peer reads."""
    etcd.ctl("user", "add", "root:root-secret")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("role", "add", "remote")
    for key, *prefix in (
        (keys.HEARTBEAT,),
        ("cilium/state/", "--prefix=true"),
        (keys.cluster_config("cm-1"),),
        (keys.synced_prefix("cm-1"), "--prefix=true"),
    ):
        etcd.ctl("role", "grant-permission", "remote", *prefix, "read", key)
    etcd.ctl("user", "add", "remote:remote-secret")
    etcd.ctl("user", "grant-role", "remote", "remote")
    etcd.ctl("auth", "enable")


def as_user(etcd: EtcdProcess, credentials: Credentials) -> Kv:
    """An adapter that logs in."""
    return Kv([etcd.endpoint], credentials=credentials)


async def until_refused(etcd: EtcdProcess, token: str) -> None:
    """Wait until etcd does not take ``token`` any more."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{etcd.port}") as channel, asyncio.timeout(60):
        while True:
            try:
                request = rpc_pb2.RangeRequest(key=b"k")
                await rpc_pb2_grpc.KVStub(channel).Range(request, metadata=(("token", token),), timeout=5)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                return
            await asyncio.sleep(0.05)


async def log_in(etcd: EtcdProcess, who: Credentials) -> str:
    """A token of our own, as old as those the adapter got before."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{etcd.port}") as channel:
        request = rpc_pb2.AuthenticateRequest(name=who.user, password=who.password)
        return (await rpc_pb2_grpc.AuthStub(channel).Authenticate(request, timeout=5)).token


async def test_calls_watches_and_leases_go_on_when_the_token_expires(
    make_etcd: Callable[..., EtcdProcess], tmp_path: Path
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = tmp_path / "jwt.key", tmp_path / "jwt.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    flags = f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=1s"
    etcd = make_etcd(extra=["--auth-token", flags])
    await etcd.start()
    enable_auth(etcd)
    async with as_user(etcd, ROOT) as kv:
        start = await kv.put("k", b"1")
        lease = await kv.grant(60)
        await until_refused(etcd, await log_in(etcd, ROOT))
        async with aclosing(kv.watch("k", after=start - 1)) as watch:
            # The watch is the first to meet the expired token, which etcd calls a missing permission.
            assert await anext(watch) == Batch(start - 1, ())
        await until_refused(etcd, await log_in(etcd, ROOT))
        await kv.renew(lease)
        await until_refused(etcd, await log_in(etcd, ROOT))
        assert (await kv.txn([], [])).succeeded


async def test_tokens_that_a_restart_forgot_are_renewed(etcd: EtcdProcess) -> None:
    enable_auth(etcd)
    async with as_user(etcd, ROOT) as kv:
        start = await kv.put("k", b"1")
        async with aclosing(kv.watch("k", after=start)) as watch:
            await anext(watch)
            etcd.stop()
            await etcd.start()
            await kv.put("k", b"2")
            assert [change.value for change in await collect(watch, 1)] == [b"2"]


async def test_authentication_switched_on_under_a_running_adapter_is_taken_up(etcd: EtcdProcess) -> None:
    async with as_user(etcd, ROOT) as kv:
        await kv.put("k", b"1")
        enable_auth(etcd)
        await kv.put("k", b"2")


async def test_a_wrong_password_is_refused_by_user_and_never_shown(etcd: EtcdProcess) -> None:
    enable_auth(etcd)
    async with as_user(etcd, Credentials("root", "guess-me")) as kv:
        with pytest.raises(KvRefused, match="user root") as refusal:
            await kv.get("k")
    assert "guess-me" not in str(refusal.value)


async def test_a_reader_needs_no_more_than_the_rights_of_a_remote_user(etcd: EtcdProcess) -> None:
    enable_auth(etcd)
    async with as_user(etcd, ROOT) as kv:
        await share(kv, 3)
    reader = Credentials("remote", "remote-secret")
    async with as_user(etcd, reader) as kv:
        with pytest.raises(KvRefused, match="etcd put cilium/state/x: PERMISSION_DENIED"):
            await kv.put("cilium/state/x", b"")
    sink = RecordingSink()
    remote = Remote(Peer("cm-1", (etcd.endpoint,), None, reader), 2, sink, lambda _: None)
    task = asyncio.create_task(remote.run())
    await sink.told("replace", "cm-1", "3")
    await sink.told("synced", "cm-1")
    assert remote.status.failures == 0
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def client_files(directory: Path) -> TlsFiles:
    """Where a client of these tests has its certificates."""
    return TlsFiles(directory / "ca.crt", directory / "client.crt", directory / "client.key")


async def mutual_tls(make_etcd: Callable[..., EtcdProcess], directory: Path) -> tuple[EtcdProcess, Authority]:
    """An etcd that trusts two authorities; its and the client's certificates are the first one's."""
    old, new = authority("old"), authority("new")
    (directory / "client-authorities.crt").write_bytes(old.pem + new.pem)
    (directory / "ca.crt").write_bytes(old.pem)
    old.issue("etcd", directory / "server.crt", directory / "server.key")
    old.issue("root", directory / "client.crt", directory / "client.key")
    etcd = make_etcd(
        scheme="https",
        extra=[
            *("--cert-file", str(directory / "server.crt"), "--key-file", str(directory / "server.key")),
            *("--client-cert-auth", "--trusted-ca-file", str(directory / "client-authorities.crt")),
        ],
    )
    await etcd.start()
    return etcd, new


async def test_certificates_replaced_on_disk_are_used_without_a_new_adapter(
    make_etcd: Callable[..., EtcdProcess], tmp_path: Path
) -> None:
    etcd, new = await mutual_tls(make_etcd, tmp_path)
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    for name in ("ca.crt", "client.crt", "client.key"):
        (frozen / name).write_bytes((tmp_path / name).read_bytes())
    short = KvOptions(deadline_s=2)
    async with (
        etcd.kv(tls=client_files(tmp_path)) as kv,
        etcd.kv(tls=client_files(frozen), options=short) as left,
    ):
        start = await kv.put("k", b"1")
        assert await left.get("k") is not None
        async with aclosing(kv.watch("k", after=start)) as watch:
            await anext(watch)
            (tmp_path / "ca.crt").write_bytes(new.pem)
            new.issue("etcd", tmp_path / "server.crt", tmp_path / "server.key")
            new.issue("root", tmp_path / "client.crt", tmp_path / "client.key")
            etcd.stop()  # every connection needs a new handshake
            await etcd.start()
            await kv.put("k", b"2")
            assert [change.value for change in await collect(watch, 1)] == [b"2"]
        # The old files do not do any more, so it was the new ones that did.
        with pytest.raises(KvUnavailable):
            await left.get("k")


async def test_certificates_that_vanish_for_a_moment_leave_the_ones_in_use(
    make_etcd: Callable[..., EtcdProcess], tmp_path: Path
) -> None:
    etcd, _ = await mutual_tls(make_etcd, tmp_path)
    async with etcd.kv(tls=client_files(tmp_path)) as kv:
        await kv.put("k", b"1")
        (tmp_path / "client.key").unlink()
        etcd.stop()
        await etcd.start()
        assert await kv.get("k") is not None


async def test_a_server_that_our_authority_did_not_sign_is_not_connected(
    make_etcd: Callable[..., EtcdProcess], tmp_path: Path
) -> None:
    etcd, _ = await mutual_tls(make_etcd, tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority("stranger").pem)
    async with etcd.kv(tls=client_files(tmp_path), options=KvOptions(deadline_s=1)) as kv:
        with pytest.raises(KvUnavailable, match=r"CERTIFICATE_VERIFY_FAILED|[Hh]andshake"):
            await kv.get("k")


async def test_a_host_alias_is_dialled_and_its_name_verified(
    make_etcd: Callable[..., EtcdProcess], tmp_path: Path
) -> None:
    etcd, _ = await mutual_tls(make_etcd, tmp_path)
    tls = client_files(tmp_path)
    for host, answers in (("cm-1.mesh.cilium.io", True), ("cm-2.mesh.cilium.io", False)):
        endpoint = parse_endpoint(f"https://{host}:{etcd.port}", {host: ["127.0.0.1"]})
        async with Kv([endpoint], tls=tls, options=KvOptions(deadline_s=1.5)) as kv:
            if answers:
                await kv.put("k", b"")
            else:
                with pytest.raises(KvUnavailable):
                    await kv.put("k", b"")


async def test_certificates_that_were_never_there_are_named(etcd: EtcdProcess, tmp_path: Path) -> None:
    endpoint = parse_endpoint(f"https://127.0.0.1:{etcd.port}")
    async with Kv([endpoint], tls=client_files(tmp_path), options=KvOptions(deadline_s=0.3)) as kv:
        with pytest.raises(KvUnavailable, match=r"No such file or directory: '.*ca\.crt'"):
            await kv.get("k")


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(OptionsError, match="needs its key"):
        TlsFiles(None, Path("/c.crt"), None)
