# SPDX-License-Identifier: Apache-2.0
"""Names of images and bases: the guide's."""

from __future__ import annotations

import pytest

from clf.deploy import images
from clf.errors import ConfigError


def test_the_guides_bases_and_tags() -> None:
    """The defaults are the guide's, and its one spelling without a colon is understood."""
    assert images.DEFAULT_BASE == "ubuntu:20.04"
    assert images.default_tag("server", images.DEFAULT_BASE) == "clf-server:gramine1.3-ubuntu20.04"
    assert images.default_tag("client", "ubuntu:18.04") == "clf-client:gramine1.3-ubuntu18.04"
    assert images.check_base("ubuntu20.04") == images.check_base("ubuntu:20.04") == "ubuntu:20.04"


@pytest.mark.parametrize("text", ["debian:12", "ubuntu:14.04", "ubuntu", "", "-v", "ubuntu:24.04 -v /:/host"])
def test_another_base_is_refused_with_the_list(text: str) -> None:
    """An unknown base is refused, and the refusal names those that are known."""
    with pytest.raises(ConfigError) as caught:
        images.check_base(text)
    assert all(base in caught.value.remedy for base in images.BASES)


def test_another_base_that_is_meant() -> None:
    """--base-image takes any image's name, and nothing that an engine would take for an option."""
    assert images.check_base("registry.example:5000/debian:12", meant=True) == "registry.example:5000/debian:12"
    assert images.default_tag("client", "registry.example:5000/debian:12") == (
        "clf-client:gramine1.3-registry.example-5000-debian-12"
    )
    for text in ("-v", "a b", "--privileged", "debian:12;x", "localhost/$(id)", ""):
        with pytest.raises(ConfigError):
            images.check_base(text, meant=True)
