"""A replica's own gRPC server: port range, health service, orderly stop."""

from collections.abc import Callable, Sequence

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dspark.config.endpoint import EndpointSettings
from dspark.rpc.channel import channel_options
from dspark.rpc.credentials import Credentials


class RpcServer:
    """A grpc.aio server on a port of a configured range.

    The health service answers for the whole server ("") and for each named service, and says
    NOT_SERVING from the moment ``drain`` is called.

    Args:
        settings: Where to listen.
        service_names: The services that will be added.
        credentials: For mutual TLS, which every client must then speak; None: plaintext.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        service_names: Sequence[str],
        credentials: Credentials | None = None,
    ) -> None:
        self._settings = settings
        self._credentials = None if credentials is None else credentials.for_server()
        self._service_names = ["", *service_names]
        # so_reuseport off: a port in use must be an error, not a shared socket.
        self._server = aio.server(
            options=[*channel_options(settings.max_message_bytes), ("grpc.so_reuseport", 0)]
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.address = ""

    def add(self, register: Callable[[aio.Server], None]) -> None:
        """Add a servicer, as ``lambda server: add_XServicer_to_server(servicer, server)``."""
        register(self._server)

    async def start(self) -> str:
        """Bind and serve; return the advertised ``host:port``.

        Raises:
            ValueError: No port of the range is free.
        """
        low, high = self._settings.port_min, self._settings.port_max
        for port in range(low, max(low, high) + 1):
            try:
                bound = self._listen(f"{self._settings.bind_host}:{port}")
            except RuntimeError:
                continue
            if bound:
                break
        else:
            span = f"port {low}" if high <= low else f"no port of {low}-{high}"
            verb = "is in use" if high <= low else "is free"
            raise ValueError(
                f"{span} {verb} on {self._settings.bind_host}: choose another port or range"
            )
        await self._server.start()
        self.address = f"{self._settings.advertise_host}:{bound}"
        await self._set_health(serving=True)
        return self.address

    async def drain(self) -> None:
        """Say NOT_SERVING; calls still run."""
        await self._set_health(serving=False)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give running ones ``grace_s``, then cancel them."""
        await self._server.stop(grace_s)

    def _listen(self, address: str) -> int:
        if self._credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, self._credentials)

    async def _set_health(self, *, serving: bool) -> None:
        answer = health_pb2.HealthCheckResponse
        for name in self._service_names:
            await self._health.set(name, answer.SERVING if serving else answer.NOT_SERVING)
