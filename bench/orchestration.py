"""What the orchestration costs: `launchway-instant` against empty journaled steps.

Prints the tables of docs/benchmarks.md; see bench/orchestration/.
"""

import os
import sqlite3
import subprocess
import sys
import tempfile

import installation
from installation import ROOT, Installation, free_ports, machine

# Rows are inserted before they are measured: they wait for their workflow.
SETTINGS = ["build.concurrency=100000", "build.queue_time_limit=1h", "recovery.grace=1h"]

installation.LAUNCHWAY = ROOT / "target/release/launchway-instant"


def main():
    # In memory where there is such a place: the adapters are to cost nothing.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="launchway-world-", dir=memory) as world:
        with Installation(settings=SETTINGS, env={"LAUNCHWAY_INSTANT_WORLD": world}) as here:
            print(machine(), flush=True)
            address = lambda setting: f"http://127.0.0.1:{here.ports[setting]}"
            done = subprocess.run(
                [
                    ROOT / "target/release/launchway-orchestration",
                    f"--database=sqlite://{here.data}/launchway.db",
                    f"--ingress={address('restate.ingress_bind')}",
                    f"--admin={address('restate.admin_bind')}",
                    f"--floor=127.0.0.1:{free_ports(1)[0]}",
                    *sys.argv[1:],
                ]
            )
            rows = database(here.data)
            for count, failure in rows.execute(FAILURES):
                print(f"{count} have failed: {failure}", file=sys.stderr)
            steps(rows)
            sys.exit(done.returncode)


FAILURES = "SELECT count(*), failure FROM deployments WHERE failure IS NOT NULL GROUP BY failure LIMIT 5"
STEPS = "SELECT step, ended_at - started_at FROM deployment_steps WHERE ended_at IS NOT NULL"


def database(data):
    return sqlite3.connect(data / "launchway.db")


def steps(rows):
    """Where a deployment's time goes, by its own records (milliseconds)."""
    by_step = {}
    for step, took in rows.execute(STEPS):
        by_step.setdefault(step, []).append(took)
    print("\n| step | median ms |\n| --- | --- |")
    for step, took in by_step.items():
        print(f"| `{step}` | {sorted(took)[len(took) // 2]} |")


main()
