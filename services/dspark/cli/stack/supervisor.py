"""Start in order, keep alive, stop in order."""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from dspark.cli.stack.launch import CHILDREN, make_children, make_scratch
from dspark.cli.stack.ports import choose_free, require_free
from dspark.cli.stack.readiness import (
    fleet_or_none,
    gateway_answers,
    pool_counts,
    serve_states,
    start_problem,
)
from dspark.cli.stack.record import StackRecord, read_record, write_record
from dspark.cli.stack.sweep import sweep
from dspark.cli.stack.tls_files import certificates_of, check_files
from dspark.config.system import SystemSettings
from dspark.core.fleet import Fleet
from dspark.engines.vllm.environment import environment_problem
from dspark.rpc.ask import ask_for_replicas
from dspark.rpc.credentials import open_credentials

_POLL_S = 0.25
_ASK_TIMEOUT_S = 5.0


class StartFailed(ValueError):
    """The stack did not come up; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the start is, for whoever shows it.

    Attributes:
        step: What is waited for.
        pools: (ready, wanted) replicas by pool.
        seconds: Since the start began.
    """

    step: str
    pools: Mapping[str, tuple[int, int]]
    seconds: float


class Supervisor:
    """Owns the processes of one stack.

    The constructor checks ports and files and claims the state folder; it starts nothing.

    Raises:
        ValueError: A port is taken, a file of TLS is not as it should be, a stack already runs
            here, or another engine's environment is none.
    """

    def __init__(self, settings: SystemSettings, *, state_dir: Path, source: str) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        _refuse_second(state_dir)
        _refuse_environment(settings)
        self._state_dir = state_dir.resolve()
        self._source = source
        self.settings = _definite(settings, self._state_dir)
        check_files(self.settings)
        self.certificates = certificates_of(self.settings)
        """Files of the certificates that its HTTPS ports show: gateway, api, metrics."""
        self._credentials = open_credentials(self.settings.endpoint.tls)
        self.stop_asked = threading.Event()
        self.hurry = threading.Event()
        """Set to kill instead of waiting for drains."""
        self._mark = secrets.token_hex(4)
        self._scratch = make_scratch(self._mark)
        self._status_file = self._state_dir / "pools.json"
        self._status_file.unlink(missing_ok=True)
        self._children = make_children(
            self.settings,
            state_dir=self._state_dir,
            scratch=self._scratch,
            status_file=self._status_file,
            mark=self._mark,
        )
        self._phase, self._problem = "starting", ""
        self._saved: StackRecord | None = None
        self._began_s = time.monotonic()

    @property
    def gateway_url(self) -> str:
        """Where clients go."""
        gateway = self.settings.gateway
        host = "127.0.0.1" if gateway.host in {"0.0.0.0", "::"} else gateway.host
        return f"{self._scheme('gateway')}://{host}:{gateway.port}"

    @property
    def api_url(self) -> str:
        """Where the control API and the dashboard are."""
        controller = self.settings.controller
        host = "127.0.0.1" if controller.api_host in {"0.0.0.0", "::"} else controller.api_host
        return f"{self._scheme('api')}://{host}:{controller.api_port}"

    @property
    def log_dir(self) -> Path:
        """Where every process writes."""
        return self._state_dir / "logs"

    def start(self, show: Callable[[Progress], None]) -> None:
        """Bring everything up and wait until it is ready.

        Raises:
            StartFailed: It did not come up; everything was stopped again.
        """
        controller, wanted = self.settings.gateway.controller, self.settings.wanted()
        try:
            self._begin("controller")
            self._await("controller", lambda: self._fleet() is not None, show)
            for pool in wanted:
                # A wish kept from an earlier run does not outlive the configuration.
                ask_for_replicas(
                    controller, pool, None, author="dspark up", reason="as configured",
                    credentials=self._credentials, timeout_s=_ASK_TIMEOUT_S,
                )  # fmt: skip
            self._begin("pools")
            self._begin("gateway")
            self._await("pools", self._pools_ready, show)
            shown = self.certificates.get("gateway")
            self._await("gateway", lambda: gateway_answers(self.gateway_url, shown), show)
        except BaseException as error:
            self._problem = str(error)
            self.stop(failed=True)
            raise
        self._phase = "ready"
        self._save()

    def watch(self) -> None:
        """Keep everything alive until a stop is asked for."""
        while not self.stop_asked.wait(_POLL_S):
            for child in self._children.values():
                child.revive()
            self._save()

    def stop(self, *, failed: bool = False) -> None:
        """End everything: the gateway drains first, then the pools, then the controller."""
        self._phase = "stopping"
        self._save()
        pools = self.settings.pools
        drains = [pool.settings.drain_s for pool in (pools.prefill, pools.drafter, pools.verifier)]
        patience_s = {
            "gateway": self.settings.gateway.drain_s + 5.0,
            "pools": max(drains) + self.settings.ray.stop_margin_s + 20.0,
            "controller": 10.0,
        }
        for name in reversed(CHILDREN):
            self._children[name].terminate()
            self._children[name].wait(patience_s[name], self.hurry)
        sweep(self._mark, patience_s=5.0)
        if failed:
            self._keep_ray_logs()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._phase = "failed" if failed else "stopped"
        self._save()

    def _begin(self, name: str) -> None:
        self._children[name].start()
        self._save()

    def _await(self, step: str, done: Callable[[], bool], show: Callable[[Progress], None]) -> None:
        while not done():
            seconds = time.monotonic() - self._began_s
            show(Progress(step=step, pools=self._counts(), seconds=seconds))
            self._save()
            for child in self._children.values():
                code = child.exit_code()
                if code is not None:
                    raise StartFailed(
                        f"{child.name} ended with {code}: {child.last_words()} (log: {child.log})"
                    )
            if seconds > self.settings.start_timeout_s:
                raise StartFailed(
                    f"{step} not ready after {seconds:.0f} s (start_timeout_s); see {self.log_dir}"
                )
            if self.stop_asked.wait(_POLL_S):
                raise StartFailed("stopped before it was ready")

    def _counts(self) -> dict[str, tuple[int, int]]:
        started = self._children["pools"].alive()
        return pool_counts(self._fleet() if started else None, self.settings.wanted())

    def _fleet(self) -> Fleet | None:
        return fleet_or_none(self.settings.gateway.controller, self._credentials)

    def _scheme(self, port: str) -> str:
        return "https" if port in self.certificates else "http"

    def _pools_ready(self) -> bool:
        problem = start_problem(serve_states(self._status_file))
        if problem is not None:
            raise StartFailed(problem)
        return all(ready >= wanted for ready, wanted in self._counts().values())

    def record(self) -> StackRecord:
        """Return what is to be known of the stack."""
        controller_host = self.settings.gateway.controller.rsplit(":", 1)[0]
        metrics = f"{controller_host}:{self.settings.controller.metrics_port}"
        tls = self.settings.endpoint.tls
        return StackRecord(
            phase=self._phase,
            problem=self._problem,
            supervisor_pid=os.getpid(),
            supervisor_started=psutil.Process().create_time(),
            model=self.settings.model.name,
            config=self._source,
            gateway=self.gateway_url,
            controller=self.settings.gateway.controller,
            api=self.api_url,
            mark=self._mark,
            metrics={
                "controller": f"{self._scheme('metrics')}://{metrics}",
                "gateway": f"{self.gateway_url}/metrics",
            },
            tls=None if tls is None else tls.model_dump(mode="json"),
            certificates=self.certificates,
            children={name: child.record() for name, child in self._children.items() if child.pid},
            pools=serve_states(self._status_file),
        )

    def _save(self) -> None:
        record = self.record()
        if record != self._saved:
            write_record(self._state_dir, record)
            self._saved = record

    def _keep_ray_logs(self) -> None:
        """Copy what replicas wrote: their folder goes away with the cluster."""
        source, target = self._scratch / "session_latest" / "logs", self.log_dir / "ray"
        if source.exists():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore_dangling_symlinks=True)


def _definite(settings: SystemSettings, state_dir: Path) -> SystemSettings:
    """Return the settings with every port chosen and found free."""
    controller, gateway = settings.controller, settings.gateway
    if controller.port:
        remedy = "choose another with --set controller.port=N"
        require_free(controller.host, controller.port, what="controller", remedy=remedy)
    if controller.api_port:
        remedy = "choose another with --set controller.api_port=N"
        require_free(controller.api_host, controller.api_port, what="control API", remedy=remedy)
    if gateway.port:
        remedy = "choose another with --port N"
        require_free(gateway.host, gateway.port, what="gateway", remedy=remedy)
    return settings.with_ports(
        controller_port=controller.port or choose_free(controller.host),
        metrics_port=controller.metrics_port or choose_free(controller.host),
        api_port=controller.api_port or choose_free(controller.api_host),
        gateway_port=gateway.port or choose_free(gateway.host),
        state_dir=state_dir,
    )


def _refuse_environment(settings: SystemSettings) -> None:
    """Refuse an interpreter for vLLM that would never start, where it is this machine's."""
    verifier = settings.pools.verifier
    python = verifier.engine_settings.python
    if verifier.engine != "vllm" or python is None or settings.ray.address is not None:
        return
    problem = environment_problem(python)
    if problem is not None:
        raise ValueError(problem)


def _refuse_second(state_dir: Path) -> None:
    record = read_record(state_dir)
    if record is None:
        return
    if record.supervisor() is not None:
        raise ValueError(
            f"a stack already runs (process {record.supervisor_pid}, {record.gateway}): stop it "
            "with `dspark down`, or start another one with --state-dir and other ports"
        )
    # Its supervisor was killed: nothing of it may keep ports or memory.
    sweep(record.mark, patience_s=5.0)
