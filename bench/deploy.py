"""What a deployment costs beyond its build: the whole `launchway deploy` of a
changed examples/hello against docker build + docker run + poll until 200 of the
same change, alternating in one run."""

import argparse
import http.client
import pathlib
import shutil
import statistics
import time
import uuid

from installation import DOCKER, ROOT, Installation, machine, run

PAUSE = 0.002


def change(directory):
    text = uuid.uuid4().hex
    (directory / "www/index.html").write_text(text)
    return text


def until_200(port, host, text):
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            if answer.status == 200 and text in answer.read().decode():
                return
        except OSError:
            pass
        time.sleep(PAUSE)


def raw(directory, buildkit):
    text, tag = change(directory), f"launchway-bench:{uuid.uuid4().hex}"
    begun = time.perf_counter()
    run("env", f"DOCKER_BUILDKIT={int(buildkit)}", DOCKER, "build", "-q", "-t", tag, directory)
    container = run(DOCKER, "run", "-d", "-p", "127.0.0.1::8080", tag).strip()
    port = int(run(DOCKER, "port", container, "8080").split(":")[1])
    until_200(port, "localhost", text)
    took = time.perf_counter() - begun
    run(DOCKER, "rm", "-f", container)
    run(DOCKER, "rmi", "-f", tag)
    return took


def deploy(here, directory, steps):
    text = change(directory)
    begun = time.perf_counter()
    url = here.cli("deploy", directory, "--project", "hello").strip()
    returned = time.perf_counter() - begun
    until_200(here.ports["gateway.bind"], url.split("/")[2], text)
    took = time.perf_counter() - begun
    newest = here.json("list", "--project", "hello", "--limit", "1")["deployments"][0]
    shown = here.json("inspect", newest["deployment_id"])
    for step in shown["steps"]:
        if step["ended_at"] and step["status"] == "done":
            steps.setdefault(step["name"], []).append(millis(step))
    # What launchway itself adds is what is not in a step.
    steps.setdefault("whole command", []).append(returned * 1000)
    return took


def millis(step):
    return step["ended_at"] - step["started_at"]


def measure(here, directory, rounds, cold):
    times, steps = {"launchway": [], "BuildKit": [], "classic": []}, {}
    ways = [
        ("launchway", lambda: deploy(here, directory, steps)),
        ("BuildKit", lambda: raw(directory, True)),
        ("classic", lambda: raw(directory, False)),
    ]
    for number in range(rounds + 1):
        for name, way in ways[number % 3 :] + ways[: number % 3]:
            if cold:
                run(DOCKER, "builder", "prune", "-af")
            took = way() * 1000
            if number > 0:  # the first round warms up
                times[name].append(took)
    return times, steps


def report(title, times, steps):
    print(f"\n### {title}\n")
    print("| | median | fastest | slowest | launchway's difference |")
    print("| --- | --- | --- | --- | --- |")
    own = statistics.median(times["launchway"])
    for name, all_of in times.items():
        median = statistics.median(all_of)
        label = "`launchway deploy`" if name == "launchway" else f"raw, {name}"
        difference = "" if name == "launchway" else f"{own - median:+.0f} ms"
        print(f"| {label} | {median:.0f} ms | {min(all_of):.0f} ms | {max(all_of):.0f} ms | {difference} |")
    print("\nWhere it goes, medians of the same deployments:\n")
    print("| step | time |")
    print("| --- | --- |")
    for name, all_of in steps.items():
        print(f"| {name} | {statistics.median(all_of):.0f} ms |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cold-rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{machine()}; {arguments.rounds} warm and {arguments.cold_rounds} cold rounds, alternating")
    with Installation() as here:
        directory = here.dir / "hello"
        shutil.copytree(ROOT / "examples/hello", directory)
        for title, rounds, cold in [
            ("Warm: one changed file, the other layers cached", arguments.rounds, False),
            ("Cold: the builder's cache emptied before each", arguments.cold_rounds, True),
        ]:
            times, steps = measure(here, pathlib.Path(directory), rounds, cold)
            report(title, times, steps)


main()
