# SPDX-License-Identifier: Apache-2.0
"""A real S3 server for tests: versitygw over a folder, with TLS, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.session import Session

from clf.server import certificates
from clf.server.config_s3 import Bucket
from tests.shared import ROOT
from tests.world import free_port, wait_until

PROGRAM = ROOT / "build" / "s3" / "versitygw"
REGION = "us-east-1"
ACCESS = "access-of-tests"
SECRET = "secret-of-tests-0123456789"
BUCKET = "hospital"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""What a process needs to find these credentials, and no others."""


class ObjectStore:
    """One server and its folder. Stopped and started again, it goes on at the same address."""

    def __init__(self, folder: Path, *, versions: bool = False) -> None:
        if not PROGRAM.exists():
            pytest.skip("there is no S3 server: tools/install-s3-server.sh builds it")
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._options = ["--versioning-dir", str(folder / "versions")] if versions else []
        for name in ("objects", "versions"):
            (folder / name).mkdir(parents=True)
        self._make_certificate()
        self.start()
        self.client = self._client()
        self.client.create_bucket(Bucket=BUCKET)
        if versions:
            self.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The CA of its certificate."""
        return self.folder / "ca.crt"

    def bucket(self, prefix: str = "", **changes: Any) -> Bucket:
        """A place in it, as the configuration would name it."""
        made = Bucket(
            name=BUCKET,
            prefix=prefix,
            region=REGION,
            endpoint=self.endpoint,
            path_style=True,
            ca=self.ca,
            credentials=None,
        )
        return replace(made, **changes)

    def table(self, name: str, prefix: str) -> str:
        """The table of clf_server.toml that names a place in it."""
        return (
            f'[{name}]\nurl = "s3://{BUCKET}/{prefix}"\nregion = "{REGION}"\nendpoint = "{self.endpoint}"\n'
            f'path_style = true\nca = "{self.ca}"\n\n'
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
        arguments = [str(PROGRAM), "--port", f"127.0.0.1:{self.port}", "--region", REGION, "--quiet", "--keep-alive"]
        arguments += ["--cert", str(self.folder / "server.crt"), "--key", str(self.folder / "server.key")]
        arguments += ["posix", *self._options, str(self.folder / "objects")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment)
        wait_until(self._answers, process=self.process)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            self.process = None

    def put(self, key: str, content: bytes) -> None:
        """Write an object, as its owner would."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, under the rest of its key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return {key.removeprefix(prefix): self.get(key) for key in keys}

    def get(self, key: str) -> bytes:
        """An object's content."""
        with self.client.get_object(Bucket=BUCKET, Key=key)["Body"] as body:
            return bytes(body.read())

    def uploads(self) -> list[str]:
        """The keys of unfinished multipart uploads."""
        answer = self.client.list_multipart_uploads(Bucket=BUCKET)
        return [item["Key"] for item in answer.get("Uploads", ())]

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            urllib.request.urlopen(self.endpoint, context=context, timeout=30).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def _client(self) -> Any:
        return Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            verify=str(self.ca),
            config=Config(
                region_name=REGION,
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "max_attempts": 2},
                request_checksum_calculation="when_required",
            ),
        )

    def _make_certificate(self) -> None:
        now = time.time()
        ca_key, key = certificates.new_key(), certificates.new_key()
        ca = certificates.make_ca(ca_key, "object store", now)
        own = certificates.make_server_certificate(
            key.public_key(), ["127.0.0.1", "localhost"], ca=ca, ca_key=ca_key, now=now
        )
        self.ca.write_bytes(certificates.certificate_pem(ca))
        (self.folder / "server.crt").write_bytes(certificates.certificate_pem(own))
        (self.folder / "server.key").write_bytes(certificates.private_pem(key))


@contextlib.contextmanager
def object_store(folder: Path, *, versions: bool = False) -> Iterator[ObjectStore]:
    """A server that ends with the block."""
    made = ObjectStore(folder, versions=versions)
    try:
        yield made
    finally:
        made.client.close()
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)
