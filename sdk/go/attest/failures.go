// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"errors"
	"syscall"

	"github.com/cross-language-framework/clf-go/problem"
)

// Platforms answer with an errno at best; what it means depends on the call that gave it. So each call has codes of its
// own. docs/attesters.md has the same table, and a test compares them.

type known struct{ cause, remedy string }

const aesm = "the reason is on the host's standard error, as `AESM service returned error N`: 12 quoting plugins " +
	"or the provisioning device are missing, 44 the PCCS has no data on this platform (see " +
	"/etc/sgx_default_qcnl.conf), 46 the enclave was lost (the machine slept or moved): start it again, " +
	"42 the attestation key is not initialised (Gramine 1.8 or later does that by itself). No number: " +
	"aesmd does not run, or its socket is not mounted into the container"

const qgs = "the host's: start the quote generation service (QGS, DCAP 1.21 or later) and give QEMU its " +
	"quote-generation-socket"

var failures = map[string]known{
	"gramine_absent": {
		"there is no /dev/attestation: this process does not run under gramine-sgx",
		"start the app with gramine-sgx; a process outside of an enclave has nothing to state",
	},
	"gramine_direct": {
		"/dev/attestation has no attestation_type: gramine-direct runs the app without an enclave",
		"start the app with gramine-sgx",
	},
	"gramine_type_none": {
		"the enclave was built without remote attestation",
		`set sgx.remote_attestation = "dcap" in the manifest, and sign it again`,
	},
	"gramine_type_epid": {
		"the enclave was built for EPID attestation, which Intel has ended",
		`set sgx.remote_attestation = "dcap" in the manifest, and sign it again`,
	},
	"gramine_type_unknown": {
		"Gramine names a kind of attestation that CLF does not know",
		"use Gramine 1.6 to 1.9 with DCAP",
	},
	"gramine_type_unreadable": {
		"/dev/attestation/attestation_type cannot be read",
		"is another file system mounted over /dev in the manifest?",
	},
	"gramine_report_data": {
		"Gramine did not take the report data",
		`EACCES: the processor gave no report; read Gramine's log with loader.log_level = "debug"`,
	},
	"gramine_report_data_short": {
		"Gramine took only part of the report data, so a quote would state something else",
		"a defect of Gramine, or another file system is mounted over /dev: look at fs.mounts in the manifest",
	},
	"gramine_no_quote_file": {
		"there is no /dev/attestation/quote, though the type is dcap",
		`set sgx.remote_attestation = "dcap" in the manifest and sign it again; is something mounted over ` +
			"/dev?",
	},
	"gramine_quote_refused": {
		"the host's AESM, quoting enclave or PCCS gave Gramine no quote",
		aesm,
	},
	"gramine_quote_failed": {
		"the quote cannot be read",
		"read Gramine's log on the host's standard error",
	},
	"gramine_quote_empty": {
		"the quote is empty",
		aesm,
	},
	"gramine_quote_short": {
		"what was read is too short for a quote",
		"another file system is mounted over /dev: look at fs.mounts",
	},
	"gramine_quote_large": {
		"the quote does not end",
		"another file system is mounted over /dev: look at fs.mounts in the manifest",
	},
	"gramine_quote_stale": {
		"the quote states other report data than what was written",
		"other code of this process writes /dev/attestation without clf's lock: let one of them do it",
	},
	"gramine_debug": {
		"this is a debug enclave: whoever runs the machine can read its memory, and every owner refuses it",
		"set sgx.debug = false in the manifest, and sign it again",
	},
	"tsm_absent": {
		"there is no /sys/kernel/config/tsm/report: configfs is not mounted, or no module offers reports",
		"modprobe tdx_guest inside a trust domain; a kernel of 6.7 or later with CONFIG_TSM_REPORTS; mount -t " +
			"configfs none /sys/kernel/config",
	},
	"tsm_no_provider": {
		"nothing provides reports to configfs-tsm (ENXIO): this is no trust domain, or tdx_guest is not " +
			"loaded",
		"modprobe tdx_guest; `clf attest doctor` says whether the processor flag tdx_guest is there",
	},
	"tsm_not_permitted": {
		"reports are root's",
		"run the app as root inside the trust domain, or with the capability DAC_OVERRIDE",
	},
	"tsm_read_only": {
		"configfs is mounted read-only, as container runtimes do",
		"mount /sys/kernel/config into the container, writable",
	},
	"tsm_directory": {
		"the kernel makes no directory for the report",
		"look into the kernel log; a kernel of 6.7 or later with CONFIG_TSM_REPORTS; mount -t configfs none " +
			"/sys/kernel/config",
	},
	"tsm_provider_unreadable": {
		"the report's provider cannot be read",
		"was the module tdx_guest just unloaded? look into the kernel log",
	},
	"tsm_sev": {
		"this is an AMD SEV-SNP machine (provider sev_guest); CLF verifies Intel SGX and Intel TDX only",
		"use a machine with Intel TDX, or an SGX enclave",
	},
	"tsm_provider_unknown": {
		"reports come from a provider that CLF does not know",
		"CLF verifies Intel TDX: provider tdx_guest",
	},
	"tsm_inblob": {
		"the kernel did not take the report data",
		"EBUSY: somebody else writes into this request's directory; else look into the kernel log",
	},
	"tsm_inblob_short": {
		"the kernel took only part of the report data, so a quote would state something else",
		"is /sys/kernel/config a configfs?",
	},
	"tsm_input_refused": {
		"the kernel refuses the request (EINVAL): it has no report data, or not 64 bytes of them",
		"the kernel tells nobody when it cannot keep what was written; look into its log, and try again",
	},
	"tsm_busy": {
		"the host still works on an earlier request (EBUSY), and did so until the last try",
		"many processes of this machine ask at once, or one request is stuck; " + qgs,
	},
	"tsm_timeout": {
		"the host did not answer in time (ETIMEDOUT)",
		qgs,
	},
	"tsm_quote_failed": {
		"the host could not make a quote (EIO)",
		qgs,
	},
	"tsm_quote_large": {
		"the quote is larger than the kernel or CLF takes (EFBIG)",
		"the host's QGS is not Intel's, or broken",
	},
	"tsm_provider_gone": {
		"the provider went away during the request (ENXIO, ENOENT)",
		"was the module tdx_guest unloaded? load it again",
	},
	"tsm_failed": {
		"the kernel gives no quote",
		"look into the kernel log (dmesg)",
	},
	"tsm_quote_empty": {
		"the quote is empty, without an error: QEMU has no working connection to a QGS",
		qgs,
	},
	"tsm_interfered": {
		"the report's generation says that somebody else wrote into this request's directory",
		"find who else writes below /sys/kernel/config/tsm/report",
	},
	"tsm_generation_unreadable": {
		"the report's generation cannot be read, so interference cannot be ruled out",
		"look into the kernel log",
	},
	"tsm_quote_malformed": {
		"what the host gave is no TDX quote of version 4 or 5",
		"the host's QGS is not Intel's, or broken",
	},
	"tsm_quote_stale": {
		"the quote states other report data than what was written",
		"on Azure a paravisor owns the report data, which CLF does not support; else the host is broken or " +
			"hostile",
	},
}

// failure is the error of a code; found is what was seen.
func failure(code, found string) error {
	k := failures[code]
	e := &problem.Error{Code: problem.Code(code), Message: k.cause, Remedy: k.remedy}
	if found != "" {
		e.Message += " [" + found + "]"
	}
	return e
}

// failed is the error of a code for what the kernel said.
func failed(code string, err error) error {
	found := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		found = errno.Error()
	}
	e, _ := failure(code, found).(*problem.Error)
	e.Cause = err
	return e
}
