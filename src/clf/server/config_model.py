# SPDX-License-Identifier: Apache-2.0
"""The shape of `clf_server.toml`: every table and key that an owner can write, and which values are possible.

This is only the shape. What the values mean together (folders that must not overlap, grants that name enclaves) is
checked in `clf.server.config`, where the answer is still a line of the file.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field

from clf import limits
from clf.strict_toml import Strict

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Threads = Annotated[int, Field(ge=1, le=4096)]
Days = Annotated[int, Field(ge=0, le=3650)]
Seconds = Annotated[int, Field(ge=1, le=365 * 86_400)]
Bytes = Annotated[int, Field(ge=1, le=limits.FILE_BYTES)]


class Tls(Strict):
    """[server.tls]: PEM files, relative to the owner's folder or absolute."""

    certificate: str
    key: str


class Limits(Strict):
    """[server.limits]: each one may be left out; defaults and reasons are in clf/limits.py."""

    open_transfers_count: Count = limits.OPEN_TRANSFERS_COUNT
    open_transfers_per_run_count: Count = limits.OPEN_TRANSFERS_PER_RUN_COUNT
    transfer_idle_seconds: Seconds = limits.TRANSFER_IDLE_SECONDS
    transfer_absolute_seconds: Seconds = limits.TRANSFER_ABSOLUTE_SECONDS
    result_file_bytes: Bytes = limits.RESULT_FILE_BYTES
    results_total_bytes: Bytes = limits.RESULTS_TOTAL_BYTES
    results_count: Count = limits.RESULTS_COUNT
    part_bytes: Annotated[int, Field(ge=limits.UPLOAD_PART_LEAST_BYTES, le=limits.PART_BYTES)] = limits.PART_BYTES
    released_file_bytes: Bytes = limits.RELEASED_FILE_BYTES
    manifest_entries_count: Annotated[int, Field(ge=1, le=limits.MANIFEST_ENTRIES_COUNT)] = (
        limits.MANIFEST_ENTRIES_COUNT
    )
    requests_per_second_per_address: Count = limits.REQUESTS_PER_SECOND_PER_ADDRESS
    requests_burst_count: Count = limits.REQUESTS_BURST_COUNT
    transfers_per_second_per_enclave: Count = limits.TRANSFERS_PER_SECOND_PER_ENCLAVE
    transfers_burst_count: Count = limits.TRANSFERS_BURST_COUNT
    release_bytes_per_second: Annotated[int, Field(ge=limits.PIECE_BYTES, le=limits.FILE_BYTES)] = (
        limits.RELEASE_BYTES_PER_SECOND
    )
    bytes_per_second_per_address: Annotated[int, Field(ge=limits.PIECE_BYTES, le=limits.FILE_BYTES)] = (
        limits.BYTES_PER_SECOND_PER_ADDRESS
    )
    bytes_per_second_per_enclave: Annotated[int, Field(ge=limits.PIECE_BYTES, le=limits.FILE_BYTES)] = (
        limits.BYTES_PER_SECOND_PER_ENCLAVE
    )
    concurrent_appraisals_count: Annotated[int, Field(ge=1, le=256)] = limits.CONCURRENT_APPRAISALS_COUNT
    waiting_appraisals_count: Threads = limits.WAITING_APPRAISALS_COUNT
    concurrent_bodies_count: Threads = limits.CONCURRENT_BODIES_COUNT
    concurrent_bodies_per_enclave_count: Threads = limits.CONCURRENT_BODIES_PER_ENCLAVE_COUNT
    connections_count: Annotated[int, Field(ge=16, le=1_000_000)] = limits.CONNECTIONS_COUNT
    connections_per_address_count: Annotated[int, Field(ge=1, le=1_000_000)] = limits.CONNECTIONS_PER_ADDRESS_COUNT
    connection_idle_seconds: Annotated[int, Field(ge=1, le=3600)] = limits.CONNECTION_IDLE_SECONDS
    body_idle_seconds: Seconds = limits.BODY_IDLE_SECONDS
    collateral_fetch_seconds: Annotated[int, Field(ge=1, le=30)] = limits.COLLATERAL_FETCH_SECONDS
    stop_grace_seconds: Annotated[int, Field(ge=1, le=3600)] = limits.STOP_GRACE_SECONDS


class Rotation(Strict):
    """[server.rotation]: what a running server renews by itself; 0 leaves it to commands. Defaults in clf/limits.py."""

    challenge_days: Days = limits.ROTATE_CHALLENGE_DAYS
    transfer_days: Days = limits.ROTATE_TRANSFER_DAYS
    certificate_days_left: Annotated[int, Field(ge=0, le=limits.RENEW_CERTIFICATE_MOST_DAYS_LEFT)] = (
        limits.RENEW_CERTIFICATE_DAYS_LEFT
    )


class ObjectStore(Strict):
    """[data] or [results]: a place in an S3 bucket, instead of the folder of this name in [server]."""

    url: str
    region: str
    endpoint: str | None = None
    path_style: bool = False
    ca: str | None = None
    credentials: str | None = None


class Server(Strict):
    """[server]: where it listens and which folders it uses; data and results may be in object stores instead."""

    listen: str
    admin: str
    data: str | None = None
    results: str | None = None
    state: str
    keys: str
    tls: Tls
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    rotation: Rotation = Rotation()
    limits: Limits = Limits()


class State(Strict):
    """[state]: what holds counters and transfers, and for PostgreSQL the audit log, too."""

    url: str = "sqlite"
    password_file: str | None = None


class CollateralSource(Strict):
    """attestation.collateral: exactly one of the first three; `update` is Intel's channel of TCB evaluations."""

    pccs: str | None = None
    pcs: Literal[True] | None = None
    folder: str | None = None
    update: Literal["standard", "early"] | None = None


class Attestation(Strict):
    """[attestation]: whose evidence counts, and what it is checked against."""

    trust: Literal["intel", "simulation"]
    simulation_root: str | None = None
    collateral: CollateralSource
    max_age_hours: Annotated[int, Field(ge=1, le=30 * 24)]
    min_tcb_evaluation_number: Annotated[int, Field(ge=0, le=100_000)]


class Tcb(Strict):
    """enclave.NAME.tcb as a table: a profile, and what differs from it."""

    profile: Literal["strict", "standard", "lenient"]
    statuses: list[str] | None = None
    advisories_tolerated: list[str] | str | None = None
    advisories_refused: list[str] | None = None
    grace_days: int | dict[str, int] | None = None
    min_evaluation_number: int | None = None
    min_tcb_date: date | None = None
    smt: bool | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None


class Enclave(Strict):
    """[enclave.NAME]: SGX by mrenclave or mrsigner, or TDX by mr_td and all registers."""

    platforms: list[str] | str
    tcb: Tcb | str = "standard"
    mrenclave: list[str] | None = None
    mrsigner: list[str] | None = None
    product_id: int | None = None
    min_svn: int | None = None
    delegates_to_signer: bool | None = None
    config_id: str | None = None
    config_svn: int | None = None
    family_id: str | None = None
    ext_prod_id: str | None = None
    mr_td: list[str] | None = None
    rtmr0: list[str] | None = None
    rtmr1: list[str] | None = None
    rtmr2: list[str] | None = None
    rtmr3: list[str] | None = None
    mr_seam: list[str] | str | None = None
    mr_config_id: str | None = None
    mr_owner: str | None = None
    mr_owner_config: str | None = None
    mr_signer_seam: str | None = None
    td_attributes: str | None = None
    app_in_image: bool | None = None


class Grant(Strict):
    """[[grant]]: what one enclave may do."""

    name: str
    enclave: str
    actions: list[str]
    paths: list[str] | None = None
    keys: list[str] | None = None
    max_runs: int | str
    max_bytes: int | str | None = None
    until: datetime | None = None


class Key(Strict):
    """[key.NAME]: the file that holds the key's bytes."""

    file: str


class File(Strict):
    """The whole file."""

    server: Server
    data: ObjectStore | None = None
    results: ObjectStore | None = None
    state: State = State()
    attestation: Attestation
    enclave: dict[str, Enclave] = Field(default_factory=dict)
    grant: list[Grant] = Field(default_factory=list)
    key: dict[str, Key] = Field(default_factory=dict)
