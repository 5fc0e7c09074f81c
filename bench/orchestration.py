"""What the orchestration costs: `launchway-instant` against empty journaled steps.

Prints the tables of docs/benchmarks.md; see bench/orchestration/.
"""

import pathlib
import subprocess
import tempfile

import installation
from installation import ROOT, Installation, free_ports, machine

SETTINGS = ["build.concurrency=100000", "build.queue_time_limit=1h"]

installation.LAUNCHWAY = ROOT / "target/release/launchway-instant"


def main():
    with tempfile.TemporaryDirectory(prefix="launchway-world-") as world:
        with Installation(settings=SETTINGS, env={"LAUNCHWAY_INSTANT_WORLD": world}) as here:
            print(machine(), flush=True)
            address = lambda setting: f"http://127.0.0.1:{here.ports[setting]}"
            subprocess.run(
                [
                    ROOT / "target/release/launchway-orchestration",
                    f"--database=sqlite://{here.data}/launchway.db",
                    f"--ingress={address('restate.ingress_bind')}",
                    f"--admin={address('restate.admin_bind')}",
                    f"--floor=127.0.0.1:{free_ports(1)[0]}",
                ],
                check=True,
            )
            steps(pathlib.Path(here.data))


def steps(data):
    """Where a deployment's time goes, by its own records (milliseconds)."""
    import sqlite3

    rows = sqlite3.connect(data / "launchway.db").execute(
        "SELECT step, ended_at - started_at FROM deployment_steps WHERE ended_at IS NOT NULL"
    )
    by_step = {}
    for step, took in rows:
        by_step.setdefault(step, []).append(took)
    print("\n| step | median ms |\n| --- | --- |")
    for step, took in by_step.items():
        print(f"| `{step}` | {sorted(took)[len(took) // 2]} |")


main()
