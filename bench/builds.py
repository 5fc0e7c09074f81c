"""Builds: from scratch and from the cache, and the memory of `up` meanwhile.

Of this machine's Docker engine (DOCKER_HOST chooses another one), of a BuildKit
behind mutual TLS, and of a Depot: the same BuildKit behind a fake of its API,
with a registry of their own. `up` is control plane, worker and object store in
one process: what is measured includes the upload of the context.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess

from installation import ROOT, Installation, machine

MIB = 1 << 20
HEAD = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY www /www\n"
SERVE = 'CMD ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]\n'


def shell(script):
    return f'RUN ["/bin/busybox", "sh", "-c", "{script}"]\n'


def application(here, name, dockerfile):
    directory = here.dir / name
    shutil.copytree(ROOT / "examples/hello", directory)
    (directory / "Dockerfile").write_text(HEAD + dockerfile + SERVE)
    return directory


def build_seconds(here, directory, *flags):
    here.cli("deploy", directory, "--project", directory.name, *flags)
    shown = here.json("list", "--project", directory.name, "--limit", "1")
    steps = here.json("inspect", shown["deployments"][0]["deployment_id"])["steps"]
    step = next(step for step in steps if step["name"] == "build-image")
    return (step["ended_at"] - step["started_at"]) / 1000


class Up:
    def __init__(self, here):
        record = json.loads((here.data / "run/up.json").read_text())
        self.proc = pathlib.Path(f"/proc/{record['process']['pid']}")

    def status(self, name):
        lines = (self.proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    def rest(self):
        return self.status("VmRSS")

    def peak_of(self, work):
        """What the work returns, and the highest resident memory during it."""
        (self.proc / "clear_refs").write_text("5")
        result = work()
        return result, self.status("VmHWM")


@contextlib.contextmanager
def elsewhere():
    """The settings of the builders that are not this machine's engine."""
    program = ROOT / "target/release/examples/elsewhere"
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as serving:
        yield json.loads(serving.stdout.readline())
        serving.stdin.close()


def measure(settings):
    with Installation(settings=settings) as here:
        small = application(here, "small", shell("echo built > /www/built"))
        yield "small, without the cache", build_seconds(here, small, "--no-cache"), None
        yield "small, unchanged", build_seconds(here, small), None
        up = Up(here)
        rest = up.rest()
        lines = application(here, "lines", shell("/bin/busybox seq 1 100000"))
        large = application(here, "large", "COPY noise /noise\n" + shell("/bin/busybox rm /noise"))
        (large / "noise").write_bytes(os.urandom(MIB) * 200)
        for title, directory in [("100,000 lines", lines), ("a context of 200 MiB", large)]:
            seconds, peak = up.peak_of(lambda directory=directory: build_seconds(here, directory, "--no-cache"))
            yield title, seconds, peak - rest
            yield f"{title}, unchanged", build_seconds(here, directory), None


def main():
    print(machine())
    print("\n| builder | | `build-image` | memory of `up` above rest |\n| --- | --- | --- | --- |")
    with elsewhere() as others:
        for builder, settings in {"docker": [], **others}.items():
            for title, seconds, above in measure(settings):
                memory = "" if above is None else f"{above:.0f} MiB"
                print(f"| {builder} | {title} | {seconds:.2f} s | {memory} |", flush=True)


main()
