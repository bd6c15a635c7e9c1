// SPDX-License-Identifier: Apache-2.0

// Package attest finds and asks the platform's source of evidence: Gramine (Intel SGX), Linux' configfs-tsm (Intel TDX)
// and the simulated platform of `clf run`. docs/attesters.md describes each, and every way in which it can fail.
package attest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// ReportDataBytes is the length of report data. Platforms pad or cut other lengths silently.
const ReportDataBytes = 64

// The formats of evidence.
const (
	SGX = "sgx-dcap"
	TDX = "tdx-dcap"
)

// Evidence is a DCAP quote and which kind it is.
type Evidence struct {
	Format string
	Quote  []byte
}

// Check refuses a quote that no owner would take.
func (e Evidence) Check() error {
	if len(e.Quote) == 0 || len(e.Quote) > wire.QuoteBytes {
		return &problem.Error{
			Code:    problem.AttesterUnavailable,
			Message: fmt.Sprintf("a quote of %d bytes; owners take 1 to %d", len(e.Quote), wire.QuoteBytes),
			Remedy:  "the evidence source of this machine is broken or stopped",
		}
	}
	return nil
}

// Attester makes evidence whose report data are these 64 bytes. It is used by several goroutines at once. The client
// neither knows nor trusts what produced a quote; the owner's verifier judges it.
type Attester interface {
	Quote(ctx context.Context, reportData [ReportDataBytes]byte) (Evidence, error)
}

// Environment is the variable in which `clf run` gives the simulated platform's socket.
const Environment = "CLF_SIMULATOR_QUOTE"

// Places says where the kernel, Gramine or the launcher offers evidence. Empty members are not looked at.
type Places struct {
	Gramine   string // folder of Gramine's pseudo-files
	Simulator string // socket of the simulated platform
	Reports   string // folder of configfs-tsm
}

// Standard is where they are on a real machine.
func Standard() Places {
	return Places{Gramine: GramineFolder, Simulator: os.Getenv(Environment), Reports: TSMFolder}
}

// Detect finds the source of this process: Gramine, because inside an enclave nothing else can be right, then the
// simulated platform, then TDX. Whether it also works shows when it is asked.
func Detect(places Places) (Attester, error) {
	if places.Gramine != "" {
		if _, err := os.Stat(filepath.Join(places.Gramine, "attestation_type")); err == nil {
			return NewGramine(places.Gramine), nil
		}
	}
	if places.Simulator != "" {
		return NewSimulator(places.Simulator), nil
	}
	if places.Reports != "" {
		if info, err := os.Stat(places.Reports); err == nil && info.IsDir() {
			return NewTSM(places.Reports), nil
		}
	}
	return nil, &problem.Error{
		Code:    problem.AttesterUnavailable,
		Message: "this process has no source of evidence",
		Remedy:  "start the app with `clf run` or gramine-sgx; `clf attest doctor` says what this machine can do",
	}
}
