# SPDX-License-Identifier: Apache-2.0
"""`make images`: the images built for real, and what was promised of them looked at. Not part of the test suite: it
needs root, buildah and debootstrap, which tools/install-image-tools.sh installs."""
