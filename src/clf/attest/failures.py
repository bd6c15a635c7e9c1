# SPDX-License-Identifier: Apache-2.0
"""Every way in which a platform fails to give evidence: code, usual cause, remedy.

Platforms answer with an errno at best; what it means depends on the call that gave it. So each call site has its own
code here. docs/attesters.md has the same table (a test compares them).
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from clf.errors import AttesterError


class Failure(NamedTuple):
    """What usually lies behind a code, and what helps."""

    cause: str
    remedy: str


_AESM = (
    "the reason is on the host's standard error, as `AESM service returned error N`: 12 quoting plugins or the "
    "provisioning device are missing, 44 the PCCS has no data on this platform (see /etc/sgx_default_qcnl.conf), "
    "46 the enclave was lost (the machine slept or moved): start it again, 42 the attestation key is not initialised "
    "(Gramine 1.8 or later does that by itself). No number: aesmd does not run, or its socket is not mounted into the "
    "container"
)
_TSM_KERNEL = "a kernel of 6.7 or later with CONFIG_TSM_REPORTS; mount -t configfs none /sys/kernel/config"
_QGS = (
    "the host's: start the quote generation service (QGS, DCAP 1.21 or later) and give QEMU its quote-generation-socket"
)

FAILURES: Final[dict[str, Failure]] = {
    # --- Gramine ---
    "gramine_absent": Failure(
        "there is no /dev/attestation: this process does not run under gramine-sgx",
        "start the app with gramine-sgx; a process outside of an enclave has nothing to state",
    ),
    "gramine_direct": Failure(
        "/dev/attestation has no attestation_type: gramine-direct runs the app without an enclave",
        "start the app with gramine-sgx",
    ),
    "gramine_type_none": Failure(
        "the enclave was built without remote attestation",
        'set sgx.remote_attestation = "dcap" in the manifest, and sign it again',
    ),
    "gramine_type_epid": Failure(
        "the enclave was built for EPID attestation, which Intel has ended",
        'set sgx.remote_attestation = "dcap" in the manifest, and sign it again',
    ),
    "gramine_type_unknown": Failure(
        "Gramine names a kind of attestation that CLF does not know", "use Gramine 1.6 to 1.9 with DCAP"
    ),
    "gramine_type_unreadable": Failure(
        "/dev/attestation/attestation_type cannot be read", "is another file system mounted over /dev in the manifest?"
    ),
    "gramine_report_data": Failure(
        "Gramine did not take the report data",
        'EACCES: the processor gave no report; read Gramine\'s log with loader.log_level = "debug"',
    ),
    "gramine_report_data_short": Failure(
        "Gramine took only part of the report data, so a quote would state something else",
        "a defect of Gramine, or another file system is mounted over /dev: look at fs.mounts in the manifest",
    ),
    "gramine_no_quote_file": Failure(
        "there is no /dev/attestation/quote, though the type is dcap",
        'set sgx.remote_attestation = "dcap" in the manifest and sign it again; is something mounted over /dev?',
    ),
    "gramine_quote_refused": Failure("the host's AESM, quoting enclave or PCCS gave Gramine no quote", _AESM),
    "gramine_quote_failed": Failure("the quote cannot be read", "read Gramine's log on the host's standard error"),
    "gramine_quote_empty": Failure("the quote is empty", _AESM),
    "gramine_quote_short": Failure(
        "what was read is too short for a quote", "another file system is mounted over /dev: look at fs.mounts"
    ),
    "gramine_quote_large": Failure(
        "the quote does not end", "another file system is mounted over /dev: look at fs.mounts in the manifest"
    ),
    "gramine_quote_stale": Failure(
        "the quote states other report data than what was written",
        "other code of this process writes /dev/attestation without clf's lock: let one of them do it",
    ),
    "gramine_debug": Failure(
        "this is a debug enclave: whoever runs the machine can read its memory, and every owner refuses it",
        "set sgx.debug = false in the manifest, and sign it again",
    ),
    # --- configfs-tsm ---
    "tsm_absent": Failure(
        "there is no /sys/kernel/config/tsm/report: configfs is not mounted, or no module offers reports",
        f"modprobe tdx_guest inside a trust domain; {_TSM_KERNEL}",
    ),
    "tsm_no_provider": Failure(
        "nothing provides reports to configfs-tsm (ENXIO): this is no trust domain, or tdx_guest is not loaded",
        "modprobe tdx_guest; `clf attest doctor` says whether the processor flag tdx_guest is there",
    ),
    "tsm_not_permitted": Failure(
        "reports are root's", "run the app as root inside the trust domain, or with the capability DAC_OVERRIDE"
    ),
    "tsm_read_only": Failure(
        "configfs is mounted read-only, as container runtimes do",
        "mount /sys/kernel/config into the container, writable",
    ),
    "tsm_directory": Failure(
        "the kernel makes no directory for the report", f"look into the kernel log; {_TSM_KERNEL}"
    ),
    "tsm_provider_unreadable": Failure(
        "the report's provider cannot be read", "was the module tdx_guest just unloaded? look into the kernel log"
    ),
    "tsm_sev": Failure(
        "this is an AMD SEV-SNP machine (provider sev_guest); CLF verifies Intel SGX and Intel TDX only",
        "use a machine with Intel TDX, or an SGX enclave",
    ),
    "tsm_provider_unknown": Failure(
        "reports come from a provider that CLF does not know", "CLF verifies Intel TDX: provider tdx_guest"
    ),
    "tsm_inblob": Failure(
        "the kernel did not take the report data",
        "EBUSY: somebody else writes into this request's directory; else look into the kernel log",
    ),
    "tsm_inblob_short": Failure(
        "the kernel took only part of the report data, so a quote would state something else",
        "is /sys/kernel/config a configfs?",
    ),
    "tsm_input_refused": Failure(
        "the kernel refuses the request (EINVAL): it has no report data, or not 64 bytes of them",
        "the kernel tells nobody when it cannot keep what was written; look into its log, and try again",
    ),
    "tsm_busy": Failure(
        "the host still works on an earlier request (EBUSY), and did so until the last try",
        f"many processes of this machine ask at once, or one request is stuck; {_QGS}",
    ),
    "tsm_timeout": Failure("the host did not answer in time (ETIMEDOUT)", _QGS),
    "tsm_quote_failed": Failure("the host could not make a quote (EIO)", _QGS),
    "tsm_quote_large": Failure(
        "the quote is larger than the kernel or CLF takes (EFBIG)", "the host's QGS is not Intel's, or broken"
    ),
    "tsm_provider_gone": Failure(
        "the provider went away during the request (ENXIO, ENOENT)", "was the module tdx_guest unloaded? load it again"
    ),
    "tsm_failed": Failure("the kernel gives no quote", "look into the kernel log (dmesg)"),
    "tsm_quote_empty": Failure("the quote is empty, without an error: QEMU has no working connection to a QGS", _QGS),
    "tsm_interfered": Failure(
        "the report's generation says that somebody else wrote into this request's directory",
        "find who else writes below /sys/kernel/config/tsm/report",
    ),
    "tsm_generation_unreadable": Failure(
        "the report's generation cannot be read, so interference cannot be ruled out", "look into the kernel log"
    ),
    "tsm_quote_malformed": Failure(
        "what the host gave is no TDX quote of version 4 or 5", "the host's QGS is not Intel's, or broken"
    ),
    "tsm_quote_stale": Failure(
        "the quote states other report data than what was written",
        "on Azure a paravisor owns the report data, which CLF does not support; else the host is broken or hostile",
    ),
    # --- runtime measurement registers of TDX ---
    "rtmr_absent": Failure(
        "the kernel offers no RTMR3 to extend, so an app cannot be measured here",
        "a kernel of 6.16 or later with CONFIG_TSM_MEASUREMENTS and the module tdx_guest loaded",
    ),
    "rtmr_not_permitted": Failure("only root extends RTMR3", "run `clf run` as root inside the trust domain"),
    "rtmr_locked": Failure(
        "another process keeps RTMR3 locked", "is another `clf run` starting? find it with fuser on the register's file"
    ),
    "rtmr_unreadable": Failure("RTMR3 cannot be read as 48 bytes", "look into the kernel log"),
    "rtmr_taken": Failure(
        "RTMR3 already holds something else: another app, or the machine's own software, was measured into it",
        "a trust domain runs one app between two boots: restart it, and let nothing else extend RTMR3",
    ),
    "rtmr_twice": Failure(
        "this app was extended into RTMR3 more than once, which no `clf run` does",
        "restart the trust domain; find what else writes the register",
    ),
    "rtmr_failed": Failure("the kernel did not extend RTMR3", "look into the kernel log (dmesg)"),
    "rtmr_mismatch": Failure(
        "RTMR3 does not hold what the extension should have given: somebody else extended it at the same time",
        "restart the trust domain, and let nothing else extend RTMR3",
    ),
}


def failure(code: str, found: str | OSError = "") -> AttesterError:
    """The error of a code; `found` is what was seen, as text or as the kernel's own error."""
    known = FAILURES[code]
    if isinstance(found, OSError):
        found = errno.errorcode.get(found.errno or 0, "") or str(found)
    return AttesterError(f"{known.cause} [{found}]" if found else known.cause, code=code, remedy=known.remedy)
