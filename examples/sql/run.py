# SPDX-License-Identifier: Apache-2.0
"""Plays the example from beginning to end: two real owners, one app that `clf run` starts, and what came of it.

    python examples/sql/run.py --rows 3000000

Ends with exit code 0 only if every check held. The platform is simulated and protects nothing; the rest is real.
"""

import argparse
import json
import shutil
import ssl
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import duckdb
import generate
import tomlkit
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from clf.demo.owner import free_ports
from clf.demo.processes import Processes, Server

HERE = Path(__file__).parent
REPORT = "reports/costs.csv"
# What may be released beyond the columns that are read: the footer, the seals, and requests that straddle two columns.
SLACK_SHARE, SLACK_BYTES = 0.05, 256 * 1024
NEEDED = {"visits.parquet": ("person", "day", "diagnosis"), "claims.parquet": ("person", "day", "paid_cents")}


@dataclass
class Owner:
    """One owner: its name in clf.toml, its folder, the file it has."""

    name: str
    folder: Path
    file: str
    port: int = 0
    identity: str = ""

    @property
    def data(self):
        """The file on its disk."""
        return self.folder / "data" / self.file

    @property
    def ca(self):
        """Its CA, which the app pins."""
        return self.folder / "keys" / "tls" / "ca.crt"

    def answers(self):
        """Whether its server serves."""
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        try:
            connection.request("GET", "/.well-known/clf")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def released(self, audit):
        """Bytes that left for the app, by the entries that end its transfers."""
        return sum(entry["bytes"] for entry in audit if entry["event"] == "closed" and entry.get("action") == "read")

    def needed(self):
        """Bytes of the columns that the query names, by the file's own footer."""
        query = "SELECT sum(total_compressed_size) FROM parquet_metadata(?) WHERE path_in_schema IN (SELECT unnest(?))"
        return int(duckdb.execute(query, [str(self.data), list(NEEDED[self.file])]).fetchall()[0][0])


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description="SQL over the files of two owners, in one (simulated) enclave.")
    parser.add_argument("--rows", type=int, default=3_000_000, help="visits; there are two claims for three of them")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="clf-sql-"))
    try:
        found = play(folder, options.rows, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(found, indent=1))
    return 0 if all(found["checks"].values()) else 1


def play(folder, rows, console):
    """All of it; what it found, for programs."""
    owners = [
        Owner("hospital-a", folder / "hospital-a", "visits.parquet"),
        Owner("insurer", folder / "insurer", "claims.parquet"),
    ]
    with Processes(folder / "logs") as processes:
        with step(console, "A simulated platform, and two owners with their own keys and an empty policy"):
            set_up(folder, owners, processes)
        with step(console, f"{rows:,} visits at the hospital, {rows * 2 // 3:,} claims at the insurer"):
            generate.visits(owners[0].data.parent, rows)
            generate.claims(owners[1].data.parent, rows)
        with step(console, "Both owners allow this app to read its file and to return a report"):
            app = write_app(folder, owners, HERE, ["app.py", "query.sql"])
            allow(app, owners, processes, max_runs=1, max_bytes=1_000_000_000)
        with step(console, "clf run: the app, in the (simulated) enclave"):
            begun = time.monotonic()
            plan = processes.run("run", app, "--platform", folder / "platform").output
            seconds = time.monotonic() - begun
        processes.close()  # so that the logs are complete
        audits = [audit(owner, processes) for owner in owners]
        verified = [verify(owner, processes) for owner in owners]
    console.print(f"the app ran for {seconds:.1f} s\n\n[bold]The plan[/]: of each file, the columns that are read")
    console.print(plan.partition("returned")[0].rstrip(), markup=False, end="\n\n")
    return {"simulated": True, "seconds": round(seconds, 1), **show(console, owners, audits, verified)}


@contextmanager
def step(console, title):
    """One step, with the time that it took."""
    begun = time.monotonic()
    with console.status(title):
        yield
    console.print(f"[green]done[/] {time.monotonic() - begun:5.1f} s  {title}")


def set_up(folder, owners, processes):
    """Platform, collateral service, owners' folders, servers."""
    processes.run("simulator", "init", folder / "platform")
    ready = folder / "pccs.port"
    service = ["simulator", "pccs", folder / "platform", "--port", "0", "--port-file", ready]
    processes.serve([Server("pccs", service, ready.exists)])
    ports = free_ports(2 * len(owners))
    for owner in owners:
        owner.port, admin = ports.pop(), ports.pop()
        made = processes.run(
            "server", "init", owner.folder, "--trust", "simulation",
            "--simulation-root", folder / "platform" / "root.pem", "--pccs", f"http://127.0.0.1:{ready.read_text().strip()}",
            "--host", "127.0.0.1", "--listen", f"127.0.0.1:{owner.port}", "--admin", f"127.0.0.1:{admin}", "--json",
        )  # fmt: skip
        owner.identity = json.loads(made.output)["identity"]
    processes.serve([Server(owner.name, ["server", "run", owner.folder], owner.answers) for owner in owners])


def allow(app, owners, processes, *, max_runs, max_bytes):
    """Each owner allows exactly this app to read its file and to return the report."""
    measurement = processes.run("measure", app).output.strip()
    for owner in owners:
        processes.run(
            "server", "allow", "costs", "--dir", owner.folder, "--mrenclave", measurement, "--platform", "any",
            "--read", owner.file, "--write", REPORT, "--max-runs", str(max_runs), "--max-bytes", str(max_bytes),
        )  # fmt: skip
        processes.run("server", "reload", owner.folder)


def write_app(folder, owners, source, files):
    """The app's folder, with these owners in its clf.toml."""
    app = folder / "app"
    (app / "certs").mkdir(parents=True)
    for name in files:
        shutil.copyfile(source / name, app / name)
    toml = tomlkit.parse((source / "clf.toml").read_text(encoding="utf-8"))
    for owner in owners:
        table = toml["owner"][owner.name]
        table["url"], table["identity"] = f"https://127.0.0.1:{owner.port}", [owner.identity]
        shutil.copyfile(owner.ca, app / table["ca"])
    (app / "clf.toml").write_text(tomlkit.dumps(toml), encoding="utf-8")
    return app


def audit(owner, processes):
    """The owner's log."""
    return [json.loads(line) for line in processes.run("audit", "show", owner.folder, "--json").output.splitlines()]


def verify(owner, processes):
    """Whether the log holds."""
    return json.loads(processes.run("audit", "verify", owner.folder, "--json", codes=(0, 5)).output)["holds"]


def direct(owners):
    """The answer, computed on the plain files without CLF."""
    query = (HERE / "query.sql").read_text(encoding="utf-8")
    for owner in owners:
        query = query.replace(f"clf://{owner.name}/{owner.file}", str(owner.data))
    with duckdb.connect() as connection:
        target = owners[0].folder.parent / "direct.csv"
        connection.execute(f"COPY ({query}) TO '{target}' (HEADER)")
    return target.read_bytes()


def show_answer(console, owners):
    """The table that came back, and its bytes at each owner."""
    answers = [(owner.folder / "results" / REPORT).read_bytes() for owner in owners]
    header, *rows = [line.split(",") for line in answers[0].decode().splitlines()]
    table = Table(title="The answer, as both owners have it", title_justify="left", box=SIMPLE_HEAD)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return answers


def show(console, owners, audits, verified):
    """Answer, bytes, checks; and the same for programs."""
    answers = show_answer(console, owners)
    files = show_bytes(console, owners, audits)
    checks = {
        "both owners have the same answer": answers[0] == answers[1],
        "it is what DuckDB computes on the plain files": answers[0] == direct(owners),
        "each owner opened one transfer to read": all(
            sum(entry["event"] == "released" and entry["action"] == "read" for entry in log) == 1 for log in audits
        ),
        "little more was released than the columns used": all(
            file["needed"] <= file["released"] <= file["needed"] * (1 + SLACK_SHARE) + SLACK_BYTES for file in files
        ),
        "nothing was refused": not any(entry["event"] == "denied" for log in audits for entry in log),
        "both audit logs hold": all(verified),
    }
    for promise, held in checks.items():
        console.print(f"[green]held[/]    {promise}" if held else f"[bold red]NOT HELD[/] {promise}")
    console.print("This was a simulation: the platform protects nothing; protocol, servers and logs are real.")
    return {"files": files, "checks": checks}


def show_bytes(console, owners, audits):
    """The table of what each owner released, and the same for programs."""
    sent = [owner.released(log) for owner, log in zip(owners, audits, strict=True)]
    bytes_table = Table(
        title="Bytes: what each owner released, by its own audit log", title_justify="left", box=SIMPLE_HEAD
    )
    for name in ("owner", "file", "whole file", "columns used", "released", "share"):
        bytes_table.add_column(name, justify="left" if name in ("owner", "file") else "right", no_wrap=True)
    files = []
    for owner, count in zip(owners, sent, strict=True):
        whole, needed = owner.data.stat().st_size, owner.needed()
        files.append({"owner": owner.name, "file": owner.file, "size": whole, "needed": needed, "released": count})
        bytes_table.add_row(owner.name, owner.file, f"{whole:,}", f"{needed:,}", f"{count:,}", f"{count / whole:.0%}")
    console.print(bytes_table)
    return files


if __name__ == "__main__":
    sys.exit(main())
