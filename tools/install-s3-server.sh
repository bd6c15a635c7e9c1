#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The S3 server of the tests, versitygw: a real one, with multipart uploads, ranges and conditional writes, which keeps
# its objects as files. Built into build/s3; needs Go.
# Usage: tools/install-s3-server.sh
set -eu
cd "$(dirname "$0")/.."
[ -x build/s3/versitygw-v1.8.0 ] && exit 0
command -v go >/dev/null || { echo "error: install Go, which builds the S3 server of the tests" >&2; exit 1; }
GOBIN="$PWD/build/s3" go install "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
ln -f build/s3/versitygw build/s3/versitygw-v1.8.0
