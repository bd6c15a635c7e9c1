# SPDX-License-Identifier: Apache-2.0
"""What a host in the settings is: who may be reached without TLS, and who may look through the owner's window, is
decided by this alone. Names are not looked up: an answer could change after the decision.
"""

from __future__ import annotations

import ipaddress


def is_ip(host: str) -> bool:
    """Whether it is an IP address; IPv6 without its brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether it is this machine and nothing else: `localhost`, or an address of the loopback range."""
    return host == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)
