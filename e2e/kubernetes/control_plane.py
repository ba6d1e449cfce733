"""A control plane on this machine: etcd, API server, controller manager, scheduler; no node.

The binaries are looked for in ``DSPARK_KUBE_BIN``.  The stories are written for v1.20: CEL rules,
policy/v1 and autoscaling/v2 are not in it, and are checked offline instead.
"""

import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

import yaml

_BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
ADMIN_TOKEN = secrets.token_hex(16)
OPERATOR_TOKEN = secrets.token_hex(16)
UNINSTALL_TOKEN = secrets.token_hex(16)
ACCOUNTS = {
    OPERATOR_TOKEN: "system:serviceaccount:operators:dspark-operator",
    UNINSTALL_TOKEN: "system:serviceaccount:serving:own-dspark-uninstall",
}
"""ServiceAccounts that the chart makes, by the token with which the stories take their place."""
_START_S = 120.0


def binaries() -> Path | None:
    """Return the folder with the control plane's binaries, or None."""
    named = os.environ.get("DSPARK_KUBE_BIN")
    if not named or shutil.which("etcd") is None:
        return None
    folder = Path(named)
    return folder if all((folder / name).exists() for name in _BINARIES) else None


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ControlPlane:
    """Four processes in one folder; ``kubeconfig(token)`` opens them."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self._folder = folder
        self._bin = bin_folder
        self._running: list[subprocess.Popen[bytes]] = []
        self.url = ""

    def start(self) -> None:
        """Start everything and wait until the API server is ready.

        Raises:
            TimeoutError: It is not ready in time; the logs lie in the folder.
        """
        folder = self._folder
        client, peer, secure, manager, scheduler = (free_port() for _ in range(5))
        self.url = f"https://127.0.0.1:{secure}"
        subprocess.run(
            ["openssl", "genrsa", "-out", folder / "sa.key", "2048"],
            check=True, capture_output=True,
        )  # fmt: skip
        rows = [f"{ADMIN_TOKEN},admin,admin,system:masters"]
        rows += [f'{token},{user},{user},"system:serviceaccounts"'
                 for token, user in ACCOUNTS.items()]  # fmt: skip
        (folder / "tokens.csv").write_text("\n".join(rows) + "\n")
        self._run(
            "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{client}",
            "--advertise-client-urls", f"http://127.0.0.1:{client}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
        )  # fmt: skip
        self._run(
            self._bin / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}",
            f"--secure-port={secure}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--cert-dir={folder / 'certs'}",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'sa.key'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--authorization-mode=RBAC", f"--token-auth-file={folder / 'tokens.csv'}",
            "--disable-admission-plugins=ServiceAccount", "--allow-privileged=true",
            "--insecure-port=0",
        )  # fmt: skip
        self._wait_ready()
        self._run(
            self._bin / "kube-controller-manager", f"--kubeconfig={self.kubeconfig(ADMIN_TOKEN)}",
            "--leader-elect=false", f"--service-account-private-key-file={folder / 'sa.key'}",
            "--controllers=*,-bootstrapsigner,-tokencleaner,-nodelifecycle", "--port=0",
            "--bind-address=127.0.0.1", f"--secure-port={manager}",
            "--horizontal-pod-autoscaler-sync-period=2s",
        )  # fmt: skip
        self._run(
            self._bin / "kube-scheduler", f"--kubeconfig={self.kubeconfig(ADMIN_TOKEN)}",
            "--leader-elect=false", "--port=0", "--bind-address=127.0.0.1",
            f"--secure-port={scheduler}",
        )  # fmt: skip

    def stop(self) -> None:
        """End everything, the API server before etcd."""
        for process in reversed(self._running):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kubeconfig(self, token: str) -> Path:
        """Return a kubeconfig for a token."""
        path = self._folder / f"kubeconfig-{token[:6]}"
        # The API server's own certificate comes with the authority that signed it.
        authority = str(self._folder / "certs" / "apiserver.crt")
        cluster = {"server": self.url, "certificate-authority": authority}
        context = {"cluster": "c", "user": "u"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": context}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        return path

    def _run(self, *command: str | Path) -> None:
        name = Path(command[0]).name
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running.append(
                subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
            )

    def _wait_ready(self) -> None:
        request = urllib.request.Request(
            f"{self.url}/readyz", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        deadline = time.monotonic() + _START_S
        authority = self._folder / "certs" / "apiserver.crt"
        while time.monotonic() < deadline:
            try:
                trusting = ssl.create_default_context(cafile=str(authority))
                with urllib.request.urlopen(request, timeout=2, context=trusting):
                    return
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(f"the API server is not ready; see {self._folder}")
