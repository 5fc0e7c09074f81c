"""Memory at rest of everything that `launchway up` starts."""

import json
import shutil
import time

from installation import ROOT, Installation, machine

REST = 20


def rollup(pid):
    found = {}
    for line in open(f"/proc/{pid}/smaps_rollup"):
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(rest.split()[0]) / 1024
    return found


def processes(here):
    for name in ["up", "gateway", "restate-server"]:
        record = json.loads((here.data / f"run/{name}.json").read_text())
        yield name, record["process"]["pid"]


def report(here, title):
    time.sleep(REST)
    print(f"\n### {title}\n\n| process | resident | proportional |\n| --- | --- | --- |")
    total = [0, 0]
    for name, pid in processes(here):
        found = rollup(pid)
        total = [total[0] + found["Rss"], total[1] + found["Pss"]]
        print(f"| {name} | {found['Rss']:.0f} MiB | {found['Pss']:.0f} MiB |")
    print(f"| **all** | {total[0]:.0f} MiB | {total[1]:.0f} MiB |")


def main():
    print(machine())
    with Installation() as here:
        report(here, f"After the start, {REST} s at rest")
        directory = here.dir / "hello"
        shutil.copytree(ROOT / "examples/hello", directory)
        for number in range(10):
            (directory / "www/index.html").write_text(str(number))
            here.cli("deploy", directory, "--project", "hello")
        report(here, f"After ten deployments, {REST} s at rest")


main()
