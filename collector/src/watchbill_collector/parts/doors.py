"""Where hosts come in: the port of the agents, the one for enrolment, and the MQTT broker where one is configured."""

from typing import TYPE_CHECKING, Any

import grpc

from watchbill.errors import Permanent
from watchbill.v1 import link_pb2 as pb
from watchbill_collector.enrolment import Enrolment
from watchbill_collector.enrolment.handlers import EnrolmentServer, EnrolmentService, LiveRenewal
from watchbill_collector.ingest.grpc_server import GrpcServer
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.host_changes import HostChanges
from watchbill_collector.parts.intake import Intake
from watchbill_collector.parts.state import State

if TYPE_CHECKING:
    from watchbill_collector.services.mqtt import MqttService


class Doors(Part):
    """See the module. Once it is open the ports are known, also those that were 0."""

    enrolment: Enrolment
    stream_port = 0
    enroll_port = 0
    mqtt_port = 0
    """The embedded broker's, 0 without one."""
    mqtt: "MqttService | None" = None

    def __init__(self, ground: Ground, state: State, changes: HostChanges, intake: Intake) -> None:
        self._ground = ground
        self._state = state
        self._changes = changes
        self._ingest = intake.ingest

    async def open(self) -> None:
        """Let agents come, then hosts that want to be enrolled."""
        config, state = self._ground.config, self._state
        self.enrolment = Enrolment.open(
            state.store,
            self._ground.clock,
            state.registry,
            state.pki.authority,
            state.pki.keys,
            lifetimes=state.lifetimes,
            endpoint=f"{self._ground.host}:{config.grpc.enroll_listen.port}",
        )
        self.stream_port = await self._open_stream()
        self.enroll_port = await self._open_enrolment()
        if config.mqtt.broker:
            self.mqtt_port = await self._open_mqtt()

    async def _open_stream(self) -> int:
        config, stack = self._ground.config, self._ground.stack
        server = GrpcServer(
            self._ingest,
            self._state.pki.server.credentials(mutual=True),
            self._ground.clock,
            site=config.site,
            sessions_max=config.grpc.agents_max,
            methods=self._unary(),
        )
        self._ingest.start()
        stack.push_async_callback(self._ingest.close)
        port = await server.start(str(config.grpc.listen))
        stack.push_async_callback(server.stop)
        # Sessions are told goodbye before the server takes their connections away.
        stack.push_async_callback(self._ingest.close)
        return port

    def _unary(self) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """What agents may ask beside their stream."""
        live = LiveRenewal(self.enrolment.desk, self.enrolment.renewals, self._state.registry)
        renew = grpc.unary_unary_rpc_method_handler(
            live.renew,
            request_deserializer=pb.RenewRequest.FromString,
            response_serializer=pb.RenewReply.SerializeToString,
        )
        tell_time = grpc.unary_unary_rpc_method_handler(
            live.time,
            request_deserializer=pb.TimeRequest.FromString,
            response_serializer=pb.TimeReply.SerializeToString,
        )
        return {"Renew": renew, "Time": tell_time}

    async def _open_enrolment(self) -> int:
        config = self._ground.config
        service = EnrolmentService(
            self.enrolment.desk,
            self.enrolment.renewals,
            config.site,
            f"{self._ground.host}:{self.stream_port}",
        )
        server = EnrolmentServer(service, self._state.pki.server)
        try:
            await server.start(str(config.grpc.enroll_listen))
        except OSError as exc:
            raise Permanent(str(exc)) from exc
        self._ground.stack.push_async_callback(server.stop)
        return server.port

    async def _open_mqtt(self) -> int:
        # Who has no broker does not pay for its client.
        from watchbill_collector.services.mqtt import MqttService, Parts

        ground, config = self._ground, self._ground.config
        self.mqtt = service = MqttService(
            Parts(
                config.mqtt,
                config.site,
                ground.host_name,
                ground.directory,
                config.grpc.agents_max,
                self._state.pki,
                self._ingest,
                self._state.registry,
                self.enrolment,
                f"{ground.host}:{self.stream_port}",
                f"{ground.host}:{self.enroll_port}",
                ground.clock,
            )
        )
        ground.metrics.register(service)
        self._changes.follow(service.host_changed)
        ground.stack.push_async_callback(service.stop)
        # Sessions are told goodbye before the broker goes.
        ground.stack.push_async_callback(self._ingest.close)
        await service.start(ground.house)
        return config.mqtt.listen.port if service.embedded is not None else 0
