"""The gateway against nginx, in front of the same upstream, in one run.

Prints the tables of docs/benchmarks.md. `wrk` asks over kept connections; both
proxies set the same headers, keep connections to the upstream, use as many
workers as there are cores, and take turns.
"""

import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

from installation import ROOT, free_ports, machine

HOST = "app-7.localhost"
BODIES = {"1 KB": 1 << 10, "1 MB": 1 << 20}
HEADERS = """
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Request-Id $request_id;
    proxy_set_header X-Real-Ip $remote_addr;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header Forwarded "for=$remote_addr;proto=$scheme;host=$http_host";
"""


class Server:
    """A process and its children, measured together."""

    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.process = subprocess.Popen([str(part) for part in command])

    def wait(self, path="/body"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Host": HOST})
        for _ in range(1000):
            try:
                return urllib.request.urlopen(request, timeout=1).read()
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"{self.name} does not answer")

    def pids(self):
        pid = self.process.pid
        return [pid, *map(int, open(f"/proc/{pid}/task/{pid}/children").read().split())]

    def cpu(self):
        """Seconds of CPU so far."""
        ticks = 0
        for pid in self.pids():
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Proportional MiB at present."""
        kib = 0
        for pid in self.pids():
            kib += int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read(), re.M)[1])
        return kib / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def nginx(name, directory, port, workers, body):
    home = directory / name.replace(" ", "-")
    (home / "tmp").mkdir(parents=True)
    paths = "".join(
        f"{kind}_temp_path {home}/tmp;\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    (home / "nginx.conf").write_text(
        f"daemon off; pid {home}/pid; error_log {home}/error.log; worker_processes {workers};\n"
        "worker_rlimit_nofile 65536; events { worker_connections 16384; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; sendfile on; tcp_nopush on; {paths}\n"
        f"{body} }}\n"
    )
    return Server(name, ["nginx", "-p", home, "-e", f"{home}/error.log", "-c", home / "nginx.conf"], port)


def upstream(directory, port):
    for name, size in BODIES.items():
        (directory / name.replace(" ", "")).write_bytes(os.urandom(size))
    (directory / "body").write_bytes(b"ready")
    listen = f"server {{ listen 127.0.0.1:{port} backlog=4096; root {directory}; }}"
    return nginx("upstream", directory, port, 1, listen)


def nginx_proxy(directory, port, to):
    body = (
        f"upstream app {{ server 127.0.0.1:{to}; keepalive 1024; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=4096 reuseport; server_name {HOST}; location / {{\n"
        f"{HEADERS} proxy_pass http://app; }} }}\n"
    )
    return nginx("nginx", directory, port, "auto", body)


def gateway(directory, port, control):
    flags = ["--data-dir", directory / "data"]
    # As nginx beside it: neither writes a line per request.
    settings = [f"bind=127.0.0.1:{port}", "access_log=off", f"workers={os.cpu_count()}"]
    for setting in [*(f"gateway.{each}" for each in settings), f"control.url=http://127.0.0.1:{control}"]:
        flags += ["--set", setting]
    binary = ROOT / "target/release/launchway"
    return Server("launchway", [binary, "serve", "--role", "gateway", *flags], port)


class Feed:
    """The route feed of bench/gateway/: so many routes, so many changes a second."""

    def __init__(self, port, upstream_port, routes):
        binary = ROOT / "target/release/examples/route-feed"
        command = [binary, f"127.0.0.1:{port}", f"127.0.0.1:{upstream_port}", str(routes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def changes(self, per_second):
        self.process.stdin.write(f"{per_second}\n")
        self.process.stdin.flush()

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def millis(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


class Round:
    """One run of `wrk` against one proxy."""

    def __init__(self, server, body, connections, seconds):
        cpu, memory = server.cpu(), []
        look = threading.Timer(seconds * 0.8, lambda: memory.append(server.memory()))
        look.start()
        url = f"http://127.0.0.1:{server.port}/{body.replace(' ', '')}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-H", f"Host: {HOST}", url]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        look.join()
        for problem in ["Non-2xx", "Socket errors"]:
            if problem in out:
                raise SystemExit(f"{server.name}: {out}")
        requests = int(re.search(r"(\d+) requests in", out)[1])
        self.rps = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
        self.p99 = millis(re.search(r"99%\s+(\S+)", out)[1])
        self.cpu = (server.cpu() - cpu) / requests * 1e6
        self.memory = memory[0]


def median(rounds, field):
    return statistics.median(getattr(one, field) for one in rounds)


def compare(proxies, rounds, seconds):
    print("| body, connections | | requests/s | p99 | CPU per request | memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for body in BODIES:
        for connections in [64, 512]:
            seen = {proxy.name: [] for proxy in proxies}
            for number in range(rounds):
                for proxy in proxies if number % 2 == 0 else proxies[::-1]:
                    seen[proxy.name].append(Round(proxy, body, connections, seconds))
            base = seen["nginx"]
            for name, all_of in seen.items():
                cells = []
                for field, unit in [("rps", ""), ("p99", " ms"), ("cpu", " us"), ("memory", " MiB")]:
                    value, ratio = median(all_of, field), median(all_of, field) / median(base, field)
                    digits = 0 if field in ("rps", "cpu", "memory") else 1
                    shown = f"{value:.{digits}f}{unit}"
                    cells.append(shown if name == "nginx" else f"{shown} ({ratio:.2f})")
                print(f"| {body}, {connections} | {name} | {' | '.join(cells)} |", flush=True)


def under_changes(proxy, feed, seconds, rounds):
    print("\n| route changes a second | requests/s | p99 | CPU per request |")
    print("| --- | --- | --- | --- |")
    seen = {0: [], 100: []}
    for number in range(rounds):
        for rate in [0, 100] if number % 2 == 0 else [100, 0]:
            feed.changes(rate)
            seen[rate].append(Round(proxy, "1 KB", 64, seconds))
    feed.changes(0)
    for rate, all_of in seen.items():
        cells = f"{median(all_of, 'rps'):.0f} | {median(all_of, 'p99'):.1f} ms | {median(all_of, 'cpu'):.0f} us"
        print(f"| {rate} | {cells} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--routes", type=int, default=10_000)
    arguments = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="launchway-bench-"))
    directory.chmod(0o755)
    ports = free_ports(4)
    servers = [upstream(directory, ports[0])]
    feed = Feed(ports[3], ports[0], arguments.routes)
    try:
        servers.append(nginx_proxy(directory, ports[1], ports[0]))
        servers.append(gateway(directory, ports[2], ports[3]))
        for server in servers:
            server.wait()
        version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
        print(f"{machine()}; {version}; {arguments.routes} routes\n", flush=True)
        compare(servers[1:], arguments.rounds, arguments.seconds)
        under_changes(servers[2], feed, arguments.seconds, arguments.rounds)
    finally:
        for server in servers[::-1]:
            server.stop()
        feed.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
