# SPDX-License-Identifier: Apache-2.0
"""Plays the example from beginning to end: two owners, a cluster of enclaves, one killed, and one that does not belong.

    python examples/dask/run.py --rows 1000000

Ends with exit code 0 only if every check held. The platform is simulated and protects nothing; the rest is real.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tomlkit
from rich.console import Console

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "sql"))  # the same owners and data

import generate  # noqa: E402
import run as sql  # noqa: E402

from clf.demo.processes import COMMAND, Processes  # noqa: E402

SECONDS = 300.0


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description="One job over a cluster of (simulated) enclaves.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="visits; there are two claims for three of them")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="clf-dask-"))
    try:
        checks = play(folder, options.rows, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(checks.values()) else 1


def play(folder, rows, console):
    """All of it; what held."""
    owners = [
        sql.Owner("hospital-a", folder / "hospital-a", "visits.parquet"),
        sql.Owner("insurer", folder / "insurer", "claims.parquet"),
    ]
    with Processes(folder / "logs") as processes:
        with sql.step(console, "A simulated platform, and two owners with their own keys and an empty policy"):
            sql.set_up(folder, owners, processes)
        with sql.step(console, f"{rows:,} visits at the hospital, {rows * 2 // 3:,} claims at the insurer"):
            generate.visits(owners[0].data.parent, rows, rows // 24)  # a partition for each group of rows
            generate.claims(owners[1].data.parent, rows, rows // 24)
        with sql.step(console, "Both owners allow this app to read its file and to return a report"):
            app = write_app(folder, owners)
            sql.allow(app, owners, processes, max_runs=10, max_bytes=100_000_000_000)
        with sql.step(console, "clf run --workers 4; one worker is killed, and a changed app tries to join"):
            found = run_cluster(folder, app)
        processes.close()  # so that the logs are complete
        audits = [sql.audit(owner, processes) for owner in owners]
        verified = [sql.verify(owner, processes) for owner in owners]
    console.print("\n[bold]The plan[/]: what Dask makes of the query; of each file, the columns that are read")
    console.print(shortened(found["plan"]), markup=False, end="\n\n")
    console.print("[bold]The cluster[/]: what was started, and who was let in")
    console.print(found["said"], found["log"], markup=False)
    console.print(f"the changed app: {found['foreign'] or 'it was let in'}", markup=False, end="\n\n")
    answers = sql.show_answer(console, owners)
    files = sql.show_bytes(console, owners, audits)
    runs = [{entry["run"] for entry in log if entry["event"] == "released"} for log in audits]
    for owner, found_runs in zip(owners, runs, strict=True):
        console.print(f"{owner.name} released to {len(found_runs)} enclaves")
    checks = {
        "the app ended well": found["code"] == 0,
        "both owners have the same answer": answers[0] == answers[1],
        "it is what DuckDB computes on the plain files": answers[0] == sql.direct(owners),
        "at least four enclaves proved themselves, several to each owner": (
            len(set.union(*runs)) >= 4 and min(map(len, runs)) >= 2
        ),
        "the killed worker was replaced": found["replaced"],
        "the changed app was refused by the cluster": bool(found["foreign"]),
        "columns that nobody asked for stayed with their owners": all(
            file["released"] < file["size"] for file in files
        ),
        "nothing was refused by an owner": not any(entry["event"] == "denied" for log in audits for entry in log),
        "both audit logs hold": all(verified),
    }
    for promise, held in checks.items():
        console.print(f"[green]held[/]    {promise}" if held else f"[bold red]NOT HELD[/] {promise}")
    console.print("This was a simulation: the platform protects nothing; protocol, servers and logs are real.")
    return checks


def write_app(folder, owners):
    """As in examples/sql, with the platform's root and collateral service."""
    app = sql.write_app(folder, owners, HERE, ["app.py"])
    shutil.copyfile(folder / "platform" / "root.pem", app / "certs" / "root.pem")
    toml = tomlkit.parse((app / "clf.toml").read_text(encoding="utf-8"))
    toml["cluster"]["pccs"] = f"http://127.0.0.1:{(folder / 'pccs.port').read_text().strip()}"
    (app / "clf.toml").write_text(tomlkit.dumps(toml), encoding="utf-8")
    return app


def run_cluster(folder, app):
    """Start it, kill its first worker once all have joined, and let a changed app ask to join."""
    output, errors = folder / "app.out", folder / "app.err"
    command = [*COMMAND, "run", app, "--platform", folder / "platform"]
    with output.open("wb") as out, errors.open("wb") as err:
        cluster = subprocess.Popen([*command, "--workers", "4"], stdout=out, stderr=err, start_new_session=True)
    try:
        until = time.monotonic() + SECONDS
        while "4 workers joined" not in output.read_text() and cluster.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        said = errors.read_text()
        place, victim = re.search(r"cluster at (.*)", said), re.search(r"worker 0: process (\d+)", said)
        foreign = ""
        if place and victim and cluster.poll() is None:
            os.kill(int(victim[1]), signal.SIGKILL)
            foreign = refused(folder, app, place[1])
        code = cluster.wait(SECONDS)
    finally:
        cluster.terminate()
        cluster.wait(60)
    said = errors.read_text()
    plan, _, told = output.read_text().partition("\n\n")
    return {
        "code": code,
        "plan": plan,
        "foreign": foreign,
        "replaced": len(re.findall(r"worker 0: process", said)) == 2,
        "said": "\n".join(re.findall(r"^(?:cluster|worker)[ :].*", said, re.MULTILINE)) + "\n" + told,
        "log": "" if code == 0 else said,
    }


def shortened(plan):
    """Dask's plan with what it repeats written once."""
    lines, seen, shown = plan.splitlines(), set(), []
    while lines:
        depth = len(lines[0]) - len(lines[0].lstrip())
        count = next(
            (at for at, line in enumerate(lines) if at and len(line) - len(line.lstrip()) <= depth), len(lines)
        )
        whole = tuple(line[depth:] for line in lines[:count])
        if count > 1 and whole in seen:
            shown.append(f"{lines[0]}  (as above)")
            lines = lines[count:]
        else:
            seen.add(whole)
            shown.append(lines.pop(0))
    return "\n".join(shown)


def refused(folder, app, place):
    """What an app in which one byte is changed is told by the cluster; empty if it is not refused."""
    changed = folder / "changed"
    shutil.copytree(app, changed)
    (changed / "app.py").write_text((app / "app.py").read_text().replace("WORKERS = 4", "WORKERS = 5"))
    command = [*COMMAND, "run", changed, "--platform", folder / "platform"]
    command += ["--role", "worker", "--join", place, "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    found = re.search(r"^error not_this_app: .*", done.stderr, re.MULTILINE)
    return found[0] if found and done.returncode == 1 else ""


if __name__ == "__main__":
    sys.exit(main())
