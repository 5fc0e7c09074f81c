"""A private launchway installation, gone at the end."""

import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Another binary than the release build, to try a benchmark out.
LAUNCHWAY = pathlib.Path(os.environ.get("LAUNCHWAY_BENCH_BINARY", ROOT / "target/release/launchway"))
SETTINGS = [
    "control.bind",
    "krane.bind",
    "gateway.bind",
    "worker.bind",
    "restate.ingress_bind",
    "restate.admin_bind",
    "restate.node_bind",
    "storage.bind",
]


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Installation:
    def __init__(self, settings=(), env=()):
        self.settings, self.more_env = settings, dict(env)

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="launchway-bench-"))
        self.data = self.dir / "data"
        self.ports = dict(zip(SETTINGS, free_ports(len(SETTINGS))))
        config = str(self.dir / "config")
        self.env = {**os.environ, "XDG_CONFIG_HOME": config, "NO_COLOR": "1", **self.more_env}
        self.flags = ["--data-dir", str(self.data)]
        for setting, port in self.ports.items():
            self.flags += ["--set", f"{setting}=127.0.0.1:{port}"]
        for setting in self.settings:
            self.flags += ["--set", setting]
        self.cli("up", "--detach", *self.flags)
        return self

    def __exit__(self, *_):
        self.cli("down", "--all", *self.flags)
        owner = (self.data / "secrets/installation").read_text().strip()
        images = run(DOCKER, "images", "-q", "--filter", f"label=launchway.owner={owner}").split()
        if images:
            run(DOCKER, "rmi", "-f", *set(images))
        shutil.rmtree(self.dir)

    def cli(self, *args):
        return run(LAUNCHWAY, *args, env=self.env)

    def json(self, *args):
        return json.loads(self.cli(*args, "--json").splitlines()[-1])


def run(*args, env=None):
    done = subprocess.run([str(arg) for arg in args], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, args))}: {done.stdout}{done.stderr}")
    return done.stdout


# Debian's client builds with BuildKit by itself; newer ones need buildx.
DOCKER = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"


def machine():
    cpus = os.cpu_count()
    model = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = int(open("/proc/meminfo").readline().split()[1]) // (1 << 20)
    engine = run(DOCKER, "version", "--format", "{{.Server.Version}}").strip()
    return f"{cpus} x {model}, {memory} GiB, Linux {platform.release()}, Docker {engine}"
