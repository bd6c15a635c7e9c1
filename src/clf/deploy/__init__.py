# SPDX-License-Identifier: Apache-2.0
"""From an app to the machine that runs it: manifests, images, CCP."""
