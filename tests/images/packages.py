# SPDX-License-Identifier: Apache-2.0
"""A signed package repository with a stand-in for Gramine, where Gramine's own cannot be reached.

The stand-in signs nothing: it shows that our steps ask the right program, in the right way, with the key where it says,
and keep the key out of every layer. What it computes is no measurement.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIGNER = """#!/bin/sh
# A stand-in: checks how it is called, and writes files of the right names.
set -eu
[ "${1-}" != --help ] || exit 0
key= manifest= output= sigfile=
while [ $# -gt 0 ]; do
    case $1 in
        --key) key=$2 ;; --manifest) manifest=$2 ;; --output) output=$2 ;; --sigfile) sigfile=$2 ;;
        --quiet) shift; continue ;; *) echo "unknown: $1" >&2; exit 2 ;;
    esac
    shift 2
done
grep -q 'PRIVATE KEY' "$key"
cp "$manifest" "$output"
printf '{"mr_enclave": "%s", "mr_signer": "%s"}\\n' "$(sha256sum <"$manifest" | cut -c-64)" \\
    "$(sha256sum <"$key" | cut -c-64)" >"$sigfile"
"""
FILES = {
    "gramine-sgx-sign": SIGNER,
    "gramine-sgx-gen-private-key": "#!/bin/sh\nset -eu\necho '-----BEGIN RSA PRIVATE KEY-----' >\"$1\"\n",
    "gramine-sgx-sigstruct-view": '#!/bin/sh\nset -eu\n[ "$1 $2" = "--output-format json" ]\ncat "$3"\n',
    "gramine-sgx": '#!/bin/sh\necho "stand-in: would start $1"\n',
}


def make(folder: Path, codename: str, version: str) -> None:
    """A repository with one package, its index, its signature; and the key in `folder`/key.gpg."""
    package = folder / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "usr/bin").mkdir(parents=True)
    for name, text in FILES.items():
        (package / "usr/bin" / name).write_text(text)
        (package / "usr/bin" / name).chmod(0o755)
    control = f"Package: gramine\nVersion: {version}\nArchitecture: amd64\nMaintainer: CLF tests <nobody@example.org>\n"
    control += "Description: stand-in for Gramine in CLF's tests\n"
    (package / "DEBIAN/control").write_text(control)
    deb = folder / "repository" / "gramine.deb"
    deb.parent.mkdir()
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", package, deb], check=True, capture_output=True)

    content = deb.read_bytes()
    listed = f"{control}Filename: gramine.deb\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"
    index = folder / "repository/dists" / codename / "main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    index.write_text(listed)
    release = (
        f"Suite: {codename}\nCodename: {codename}\nComponents: main\nArchitectures: amd64\n"
        "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(listed.encode()).hexdigest()} {len(listed)} main/binary-amd64/Packages\n"
    )
    home = folder / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--batch", "--quiet", "--homedir", str(home), "--passphrase", ""]
    subprocess.run(
        [*gpg, "--quick-generate-key", "CLF tests", "ed25519", "sign", "never"], check=True, capture_output=True
    )
    subprocess.run([*gpg, "--output", str(folder / "key.gpg"), "--export"], check=True)
    signed = index.parents[2] / "InRelease"
    subprocess.run(
        [*gpg, "--output", str(signed), "--clear-sign"], input=release.encode(), check=True, capture_output=True
    )
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The repository's URL on this machine, until the block ends."""
    handler = functools.partial(_Quiet, directory=str(folder / "repository"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join(10)
