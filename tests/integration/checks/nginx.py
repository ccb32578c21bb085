"""A real nginx as an unprivileged user, on ports of its own."""

import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from .asked import Authority

CONFIG = """
daemon off;
pid {place}/pid;
error_log {place}/error.log;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place};
    uwsgi_temp_path {place}; scgi_temp_path {place};
    gzip on; gzip_types application/json; gzip_min_length 1;
    root {place}/root;
    server {{
        listen 127.0.0.1:{http};
        listen unix:{place}/socket;
        location / {{ }}
        location = /status.json {{ default_type application/json; }}
        location = /secure {{ return 301 https://localhost:{https}/; }}
        location = /moved {{ return 302 /status.json; }}
    }}
    server {{
        listen 127.0.0.1:{https} ssl http2;
        ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
        location / {{ }}
        location = /plain {{ return 301 http://127.0.0.1:{http}/; }}
        location = /form {{ client_max_body_size 1m; proxy_method GET;
            proxy_pass http://127.0.0.1:{http}/status.json; }}
    }}
    server {{
        listen 127.0.0.1:{mutual} ssl;
        ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate {authority}; ssl_verify_client on;
    }}
}}
"""


class Nginx:
    """Starts and stops; `place` and all in it belong to the user that it runs as."""

    def __init__(self, authority: Authority) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="wb-tests-nginx-"))
        self.http, self.https, self.mutual = (_free_port() for _ in range(3))
        pair = authority.issue()
        root = self.place / "root"
        root.mkdir()
        (root / "index.html").write_text("<h1>well</h1>\n")
        (root / "status.json").write_text(
            '{"status": "ok", "queue": {"depth": 3}, "nodes": [{"role": "primary"}]}\n'
        )
        files = {"chain": pair.chain, "key": pair.key, "authority": authority.file}
        for name, path in files.items():
            shutil.copy(path, self.place / name)
        copies = {name: self.place / name for name in files}
        ports = {"http": self.http, "https": self.https, "mutual": self.mutual}
        (self.place / "nginx.conf").write_text(CONFIG.format(place=self.place, **copies, **ports))
        self._as: dict[str, object] = {}
        if Path("/proc/self").owner() == "root":
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self.place, *self.place.rglob("*")):
                shutil.chown(path, nobody.pw_uid, nobody.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers."""
        argv = [
            "nginx",
            "-c",
            f"{self.place}/nginx.conf",
            "-p",
            str(self.place),
            "-e",
            f"{self.place}/error.log",
        ]
        self._process = subprocess.Popen(argv, **self._as)  # type: ignore[call-overload]
        for _ in range(500):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.mutual)) == 0:
                    return
            assert self._process.poll() is None, (self.place / "error.log").read_text()
            time.sleep(0.02)
        raise AssertionError("nginx does not listen")

    def stop(self) -> None:
        """Until it is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def remove(self) -> None:
        """And all that it had."""
        self.stop()
        shutil.rmtree(self.place, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])
