"""Enrolment and renewal over gRPC.

7444 serves `Enroll`, and `Renew` for expired certificates, to clients without a certificate. On 7443 the
streams' service calls `LiveRenewal.renew` for its own `Renew`. `Time` is served by both. A refusal is a status
with a sentence for people, and in its trailing metadata the reason in one word and when to try again.
"""

import ipaddress
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from watchbill.errors import Busy, StorageError
from watchbill.identity import IdentityRefused, RefusalReason
from watchbill.limits import HANDSHAKES_CONCURRENT_MAX
from watchbill.v1 import link_pb2 as pb
from watchbill.v1 import link_pb2_grpc
from watchbill_collector.enrolment.desk import Application, EnrolmentDesk
from watchbill_collector.enrolment.renewals import Renewal, RenewalDesk
from watchbill_collector.enrolment.rulings import Granted, Waiting
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.listening import cannot_listen
from watchbill_collector.pki import ServerCertificate

REASON_KEY: Final = "watchbill-reason"
RETRY_KEY: Final = "watchbill-retry-after-ms"
REQUEST_BYTES_MAX: Final = 32 * 1024
IDLE_MS: Final = 30_000
CONNECTION_AGE_MS: Final = 120_000
HANDSHAKE_TIMEOUT_MS: Final = 10_000
STOP_GRACE_S: Final = 5.0

Context = grpc.aio.ServicerContext[Any, Any]

_STATUS: Final = {
    RefusalReason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalReason.KEY: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalReason.NAME_TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    RefusalReason.KEY_TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    RefusalReason.CLOCK_SUSPECT: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalReason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RefusalReason.LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RefusalReason.CERTIFICATE: grpc.StatusCode.UNAUTHENTICATED,
}


class EnrolmentService(link_pb2_grpc.LinkServicer):
    """What 7444 answers; there are no streams here."""

    def __init__(
        self,
        desk: EnrolmentDesk,
        renewals: RenewalDesk,
        site: str,
        stream_endpoint: str,
        *,
        enrol_endpoint: str = "",
        mqtt_url: str = "",
    ) -> None:
        self._desk = desk
        self._renewals = renewals
        self._site = site
        self._stream_endpoint = stream_endpoint
        self._enrol_endpoint = enrol_endpoint
        self._mqtt_url = mqtt_url

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollReply:  # noqa: N802 - The name in link.proto.
        """A host that holds a token becomes an agent."""
        try:
            return await self.enroll(request, peer_address(context))
        except (IdentityRefused, Busy, StorageError) as exc:
            await refuse(context, exc)

    async def enroll(self, request: pb.EnrollRequest, address: str) -> pb.EnrollReply:
        """The same, however it was asked. Raises IdentityRefused, Busy, StorageError."""
        asked = Application(
            token_id=request.token_id,
            token_secret=_secret(request.token_secret),
            csr=request.csr,
            envelope_key=request.envelope_key,
            envelope_proof=request.envelope_proof,
            hostname=request.hostname,
            instance=request.instance,
            agent_version=request.agent_version,
        )
        answer = await self._desk.enrol(asked, address)
        reply = pb.EnrollReply(agent_id=answer.host.agent_id, instance=answer.host.instance, site=self._site)
        if isinstance(answer, Waiting):
            reply.pending = True
            reply.retry_after_ms = round(answer.retry_after_s * 1000)
            return reply
        reply.certificate_chain.append(answer.certificate)
        reply.trust_bundle.extend(self._desk.trust_bundle)
        reply.stream_endpoint = self._stream_endpoint
        reply.labels.update(answer.host.labels)
        reply.collector_envelope_key = self._desk.envelope_key
        reply.command_key = self._desk.command_key
        reply.mqtt_url = self._mqtt_url
        reply.enrol_endpoint = self._enrol_endpoint
        return reply

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewReply:  # noqa: N802 - The name in link.proto.
        """An agent whose certificate has expired gets the next one."""
        try:
            return await self.recover(request, peer_address(context))
        except (IdentityRefused, Busy, StorageError) as exc:
            await refuse(context, exc)

    async def recover(self, request: pb.RenewRequest, address: str) -> pb.RenewReply:
        """The same, however it was asked. Raises IdentityRefused, Busy, StorageError."""
        asked = Renewal(request.agent_id, request.csr, request.wall_ms, request.proof)
        answer = await self._renewals.recover(asked, address)
        return renewed(answer, self._desk.trust_bundle)

    async def Time(self, request: pb.TimeRequest, context: Context) -> pb.TimeReply:  # noqa: N802 - The name in link.proto.
        """The collector's time, signed."""
        try:
            return self.tell_time(request)
        except IdentityRefused as exc:
            await refuse(context, exc)

    def tell_time(self, request: pb.TimeRequest) -> pb.TimeReply:
        """The same, however it was asked. Raises IdentityRefused."""
        return told(self._desk, self._site, request)

    async def Stream(  # noqa: N802 - The name in link.proto.
        self,
        request_iterator: AsyncIterator[pb.Up],  # noqa: ARG002 - gRPC passes it by its name.
        context: Context,
    ) -> AsyncIterator[pb.Down]:
        """There are no streams on this port."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "streams are on the mutual TLS port")
        yield pb.Down()  # type: ignore[unreachable]  # What makes this a stream.


class LiveRenewal:
    """`Renew` on the mutual TLS port: the certificate that the connection was opened with says who asks."""

    def __init__(self, desk: EnrolmentDesk, renewals: RenewalDesk, hosts: HostRegistry) -> None:
        self._desk = desk
        self._renewals = renewals
        self._hosts = hosts

    async def renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewReply:
        """Serve one `Renew`; the streams' servicer hands its own over."""
        try:
            admitted = self._hosts.admit(peer_certificate(context))
            asked = Renewal(request.agent_id, request.csr)
            answer = await self._renewals.renew(admitted, asked, peer_address(context))
        except (IdentityRefused, Busy, StorageError) as exc:
            await refuse(context, exc)
        return renewed(answer, self._desk.trust_bundle)

    async def time(self, request: pb.TimeRequest, context: Context) -> pb.TimeReply:
        """Serve one `Time`; it is nothing that a certificate would be needed for."""
        try:
            return told(self._desk, self._hosts.site, request)
        except IdentityRefused as exc:
            await refuse(context, exc)


def told(desk: EnrolmentDesk, site: str, request: pb.TimeRequest) -> pb.TimeReply:
    """The collector's time as it is answered. Raises IdentityRefused."""
    said = desk.tell_time(request.nonce)
    return pb.TimeReply(
        wall_ms=said.wall_ms,
        signature=said.signature,
        key=said.key,
        key_signature=said.key_signature,
        site=site,
    )


def renewed(answer: Granted, trust_bundle: list[bytes]) -> pb.RenewReply:
    """A granted renewal as it is answered."""
    return pb.RenewReply(certificate_chain=[answer.certificate], trust_bundle=trust_bundle)


class EnrolmentServer:
    """The server of 7444."""

    def __init__(self, service: EnrolmentService, certificate: ServerCertificate) -> None:
        self._service = service
        self._certificate = certificate
        self._server: grpc.aio.Server | None = None
        self.port = 0
        """Where it listens, once started; useful when port 0 was asked for."""

    async def start(self, address: str) -> None:
        """Listen on host:port. Raises StorageError's sibling OSError when the port is not to be had."""
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # A second process must not share the port unnoticed.
                ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
                ("grpc.max_metadata_size", 8 * 1024),
                ("grpc.max_concurrent_streams", 4),
                ("grpc.max_connection_idle_ms", IDLE_MS),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
                ("grpc.http2.bdp_probe", 0),
            ],
            maximum_concurrent_rpcs=HANDSHAKES_CONCURRENT_MAX,
        )
        link_pb2_grpc.add_LinkServicer_to_server(self._service, server)
        try:
            self.port = server.add_secure_port(address, self._certificate.credentials(mutual=False))
        except RuntimeError as exc:  # gRPC's word for a port that is taken.
            raise OSError(cannot_listen("the enrolment address", address, "[grpc] enroll_listen")) from exc
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Answer what was asked, take nothing new."""
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
            self._server = None


def _secret(text: str) -> bytes:
    """A token's secret as it travels: hexadecimal. What is not is simply wrong."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


# ---------------------------------------------------------------- what a context says


def peer_address(context: Context) -> str:
    """The address a client came from, without its port; empty where there is none."""
    kind, _, rest = urllib.parse.unquote(context.peer()).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return kind[:64]
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def peer_certificate(context: Context) -> bytes:
    """The certificate a client came with, PEM. Raises IdentityRefused when there is none."""
    found = list(context.auth_context().get("x509_pem_cert", ()))
    if not found:
        raise IdentityRefused(RefusalReason.CERTIFICATE, "the client came without a certificate")
    return found[0]


def refusal(error: IdentityRefused | Busy | StorageError) -> tuple[str, str, float | None]:
    """A refusal's reason in one word, its sentence for people, and when to try again."""
    if isinstance(error, IdentityRefused):
        return error.reason.value, str(error), error.retry_after_s
    if isinstance(error, Busy):
        return "busy", str(error), error.retry_after_s
    # What is wrong with our disk is not for strangers.
    return "storage", "the collector cannot write to its store", None


async def refuse(context: Context, error: IdentityRefused | Busy | StorageError) -> NoReturn:
    """End a call with the status, reason and retry time that belong to `error`."""
    status = grpc.StatusCode.UNAVAILABLE
    if isinstance(error, IdentityRefused):
        status = _STATUS.get(error.reason, grpc.StatusCode.PERMISSION_DENIED)
    reason, message, retry_after_s = refusal(error)
    trailing = [(REASON_KEY, reason)]
    if retry_after_s is not None:
        trailing.append((RETRY_KEY, str(round(retry_after_s * 1000))))
    await context.abort(status, message, tuple(trailing))
    raise AssertionError("abort raises")
