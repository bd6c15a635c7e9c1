#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compiles an example, with the client's classes beside it, into a folder that `clf run` starts.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
case "${1-}" in
    clf_test) sources="$here" ;;
    hospitals) sources="$here/hospitals" ;;
    *) echo "usage: build.sh clf_test|hospitals FOLDER" >&2; exit 2 ;;
esac
mkdir -p "$2/certs"
target=$(CDPATH='' cd -- "$2" && pwd)
cd "$here/../../sdk/java"
# Without the client's own tests, which `make sdk-java` runs.
modules="-pl clf-client,clf-compat -Dmaven.test.skip=true package"
# shellcheck disable=SC2086  # they are several arguments
mvn -q -o -B $modules >/dev/null 2>&1 || mvn -q -B $modules
for jar in clf-client clf-compat; do
    [ "$1 $jar" = "hospitals clf-compat" ] || (cd "$target" && jar xf "$OLDPWD/$jar/target/$jar-0.1.0.jar")
done
rm -rf "$target/META-INF/maven" "$target/META-INF/MANIFEST.MF"
javac --release 17 -cp "$target" -d "$target" "$sources"/*.java
[ -e "$target/clf.toml" ] || cp "$sources/clf.toml" "$target"
