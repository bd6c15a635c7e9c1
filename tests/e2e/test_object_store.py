# SPDX-License-Identifier: Apache-2.0
"""An owner whose data and results lie in a bucket: real processes all the way, the S3 server among them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import clf
from clf.wire.documents import Commit
from tests.e2e.byhand import ByHand, Hand
from tests.object_store import ENVIRONMENT, SECRET, ObjectStore, object_store
from tests.world import CLF, OwnerProcess, World, run_clf, running, wait_until


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server; whoever kills it starts it again."""
    with object_store(tmp_path_factory.mktemp("s3") / "server") as made:
        yield made


def keep_in(store: ObjectStore, owner: OwnerProcess, **limits: int) -> OwnerProcess:
    """Let an owner's data and results lie below prefixes of its own."""
    text = owner.config_file.read_text()
    for name in ("data", "results"):
        lines = [line for line in text.splitlines() if line.startswith(f'{name} = "{name}"')]
        assert len(lines) == 1
        text = text.replace(lines[0] + "\n", "")
    tables = "".join(store.table(name, f"{owner.folder.name}/{name}/") for name in ("data", "results"))
    text = text.replace("[attestation]", tables + "[attestation]", 1)
    for key, value in limits.items():
        text = text.replace(f"# {key} = ", f"{key} = {value}  # ")
    owner.config_file.write_text(text)
    owner.environment = dict(ENVIRONMENT)
    return owner


class Warehouse:
    """An owner and its bucket."""

    def __init__(self, store: ObjectStore, owner: OwnerProcess) -> None:
        self.store = store
        self.owner = owner
        self.name = owner.folder.name

    def put(self, path: str, content: bytes) -> None:
        """A data file."""
        self.store.put(f"{self.name}/data/{path}", content)

    def results(self) -> dict[str, bytes]:
        """What is below the prefix of results, staged or not."""
        return self.store.objects(f"{self.name}/results/")

    def collect(self, path: str) -> None:
        """Take a result away."""
        self.store.client.delete_object(Bucket=self.store.bucket().name, Key=f"{self.name}/results/{path}")


@pytest.fixture(scope="module")
def warehouse(everything: World, store: ObjectStore) -> Iterator[Warehouse]:
    """One that serves, and whose enclave may have all of it."""
    owner = keep_in(store, OwnerProcess(everything, "warehouse"))
    owner.allow("app", read="**", write="**", list="**")
    with running(owner):
        yield Warehouse(store, owner)


@pytest.mark.parametrize("size", [0, 1, 16_385, 5_000_001])
def test_a_file_and_its_ranges_are_read(warehouse: Warehouse, size: int) -> None:
    """What the owner put there is what the enclave gets, byte for byte, whole and in part."""
    content = os.urandom(size)
    warehouse.put(f"sizes/{size}.bin", content)
    with warehouse.owner.connect() as owner:
        assert owner.read_bytes(f"sizes/{size}.bin") == content
        with owner.open(f"sizes/{size}.bin") as reader:
            for offset in (0, size // 3, size - 1):
                if 0 <= offset < size:
                    reader.seek(offset)
                    assert reader.read(10_000) == content[offset : offset + 10_000]


def test_a_folder_is_one_attestation(warehouse: Warehouse) -> None:
    """A directory transfer covers all objects below a prefix."""
    files = {f"images/{number:03}.png": os.urandom(1000 + number) for number in range(30)}
    for path, content in files.items():
        warehouse.put(path, content)
    attester = warehouse.owner.world.attester()
    with warehouse.owner.connect(attester) as owner:
        assert {entry.path: data for entry, data in owner.read_folder("images/")} == files
        assert attester.count == 1
        assert [entry.path for entry in owner.list("images/")] == sorted(files)


def test_an_object_replaced_during_a_transfer_ends_it(warehouse: Warehouse) -> None:
    """The versions are never mixed: the next request of the transfer is refused."""
    warehouse.put("changing.bin", b"o" * 3_000_000)
    with warehouse.owner.connect() as owner, owner.open("changing.bin") as reader:
        assert reader.read(10) == b"o" * 10
        warehouse.put("changing.bin", b"n" * 3_000_000)
        with pytest.raises(clf.TransferError) as refused:
            [reader.read(1 << 20) for _ in iter(lambda: reader.seek(2_000_000), -1)]
    assert refused.value.code == "source_changed"


@pytest.mark.parametrize("size", [0, 1, 300_000, 40_000_000])
def test_a_result_comes_back_whole_and_once(warehouse: Warehouse, size: int) -> None:
    """A committed result is in the bucket, in the list and in the audit log, with one digest; nothing else is left."""
    content, path = os.urandom(size), f"out/result-{size}.bin"
    with warehouse.owner.connect() as owner, owner.create(path) as writer:
        writer.write(content)
    digest = hashlib.sha256(content).hexdigest()
    assert warehouse.results()[path] == content
    assert not [key for key in warehouse.results() if key.startswith(".clf-staging")]
    committed = [entry for entry in warehouse.owner.audit() if entry["event"] == "committed" and entry["path"] == path]
    assert [entry["sha256"] for entry in committed] == [digest]


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_result_that_was_never_begun_is_begun(warehouse: Warehouse, size: int) -> None:
    """A server dies after it has reserved a transfer and before it has made its record: the app's next step works."""
    hand, data = Hand(warehouse.owner), os.urandom(size)
    asked = hand.ask("write", f"begun/{size}", size=size)
    result = ByHand(hand, asked, hand.send(asked))
    warehouse.collect(f".clf-staging/{result.id}/record")
    assert hand.send(asked).status == 200
    if size:
        assert result.put(0, data).status == 200
    assert result.commit(Commit(size, hashlib.sha256(data).hexdigest())).status == 200
    found = warehouse.results()
    assert found[f"begun/{size}"] == data
    assert not [path for path in found if result.id in path]


def test_the_list_of_results_says_what_was_taken_away(warehouse: Warehouse) -> None:
    """`clf server results` looks into the bucket."""
    with warehouse.owner.connect() as owner:
        for path in ("list/kept", "list/taken"):
            with owner.create(path) as writer:
                writer.write(b"x")
    warehouse.collect("list/taken")
    found = json.loads(
        run_clf("server", "results", warehouse.owner.folder, "--json", env={**os.environ, **ENVIRONMENT})
    )
    assert found["folder"].startswith("s3://")
    present = {row["path"]: row["present"] for row in found["results"]}
    assert (present["list/kept"], present["list/taken"]) == (True, False)


def test_an_exception_publishes_nothing(warehouse: Warehouse) -> None:
    """Nothing of a result that its program did not finish is left in the bucket."""

    def fail(owner: clf.Owner) -> None:
        with owner.create("out/never.bin") as writer:
            writer.write(os.urandom(40_000_000))
            raise RuntimeError

    with warehouse.owner.connect() as owner, pytest.raises(RuntimeError):
        fail(owner)
    wait_until(lambda: not [key for key in warehouse.results() if "never" in key or key.startswith(".clf-staging")])
    assert warehouse.store.uploads() == []


def test_results_are_never_written_over(warehouse: Warehouse) -> None:
    """Neither one of before, nor what the owner puts there between the last part and the commit."""
    with warehouse.owner.connect() as owner:
        with owner.create("out/once.txt") as writer:
            writer.write(b"first")
        with pytest.raises(clf.TransferError) as refused:
            owner.create("out/once.txt")
        assert refused.value.code == "result_exists"
        writer = owner.create("out/late.txt")
        writer.write(b"the enclave's")
        warehouse.store.put(f"{warehouse.name}/results/out/late.txt", b"the owner's")
        with pytest.raises(clf.TransferError) as refused:
            writer.commit()
        assert refused.value.code == "result_exists"
    assert warehouse.results()["out/once.txt"] == b"first"
    assert warehouse.results()["out/late.txt"] == b"the owner's"


@pytest.mark.parametrize("killed", ["server", "store"])
def test_kill_9_in_the_middle_and_going_on(everything: World, store: ObjectStore, killed: str) -> None:
    """The owner's server, or the object store, is killed while results and files move: the same client goes on where
    it was, and nothing is lost, doubled or torn."""
    owner = keep_in(store, OwnerProcess(everything, f"killed-{killed}"))
    owner.allow("app", read="**", write="**")
    house = Warehouse(store, owner)
    content = os.urandom(120_000_000)
    house.put("big.bin", content)
    with running(owner):

        def kill_and_start() -> None:
            (owner if killed == "server" else store).kill()
            (owner if killed == "server" else store).start()

        def when(amount: int, so_far: list[int]) -> threading.Thread:
            def wait() -> None:
                wait_until(lambda: so_far[0] >= amount, seconds=500)
                kill_and_start()

            thread = threading.Thread(target=wait)
            thread.start()
            return thread

        with owner.connect(timeout=120) as connection:
            done = [0]
            thread = when(40_000_000, done)
            with connection.create("big-result.bin") as writer:
                for start in range(0, len(content), 1_000_000):
                    writer.write(content[start : start + 1_000_000])
                    done[0] = start
            thread.join()
            done = [0]
            thread = when(30_000_000, done)
            got = bytearray()
            with connection.open("big.bin") as reader:
                while piece := reader.read(1_000_000):
                    got += piece
                    done[0] = len(got)
            thread.join()
        assert bytes(got) == content
        assert house.results() == {"big-result.bin": content}
        assert store.uploads() == []
        owner.verify_audit()
        committed = [entry for entry in owner.audit() if entry["event"] == "committed"]
        assert [entry["bytes"] for entry in committed] == [len(content)]


def test_the_servers_disk_holds_nothing_of_it(warehouse: Warehouse) -> None:
    """What was read and written is on no disk of the server's own: neither data nor results, sealed or not."""
    secret = os.urandom(2_000_000)
    warehouse.put("secret.bin", secret)
    with warehouse.owner.connect() as owner:
        assert owner.read_bytes("secret.bin") == secret
        with owner.create("out/secret.bin") as writer:
            writer.write(secret)
    for path in warehouse.owner.folder.rglob("*"):
        if path.is_file():
            assert secret[1_000_000:1_000_032] not in path.read_bytes(), path
    assert sum(path.stat().st_size for path in (warehouse.owner.folder / "data").rglob("*")) == 0
    assert SECRET not in warehouse.owner.log() + json.dumps(warehouse.owner.audit())


def test_commands_say_where_it_lies(warehouse: Warehouse, tmp_path: Path) -> None:
    """check, explain, status, unit and backup work, though there are no such folders on this machine."""
    folder = warehouse.owner.folder
    environment = {**os.environ, **ENVIRONMENT}
    said = run_clf("server", "check", folder, env=environment)
    assert f"s3://hospital/{warehouse.name}/data/" in said
    run_clf("server", "status", folder, env=environment)
    assert "/results" not in run_clf("server", "unit", folder, "--user", "clf", env=environment)
    run_clf("server", "backup", folder, tmp_path / "backup", env=environment)


def test_a_server_that_cannot_write_does_not_start(everything: World, store: ObjectStore) -> None:
    """Wrong credentials are found before anything is received, and named with a remedy."""
    owner = keep_in(store, OwnerProcess(everything, "no-key"))
    environment = {**os.environ, **ENVIRONMENT, "AWS_SECRET_ACCESS_KEY": "another-secret-of-tests"}
    done = subprocess.run(
        [*CLF, "server", "run", str(owner.folder)], capture_output=True, text=True, timeout=60, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode != 0
    assert "credentials" in done.stderr + done.stdout
    assert "another-secret" not in done.stderr + done.stdout


def test_the_audit_log_of_all_this_verifies(warehouse: Warehouse) -> None:
    """Nothing above left the log broken."""
    warehouse.owner.verify_audit()
