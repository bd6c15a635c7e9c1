// SPDX-License-Identifier: Apache-2.0

//go:build unix

package attest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/cross-language-framework/clf-go/internal/wire"
)

// GramineFolder is where Gramine has its pseudo-files.
const GramineFolder = "/dev/attestation"

// Places in an SGX quote of version 3 (Intel SGX ECDSA QuoteLibReference, appendix A.4).
const (
	sgxReportData = 368
	sgxFlags      = 96
	sgxDebug      = 0x02
)

// fieldBytes bounds a text attribute: one page.
const fieldBytes = 4096

// gramineLock serialises the process: Gramine keeps one place of report data for all threads.
var gramineLock sync.Mutex

// Gramine quotes an SGX enclave under Gramine.
type Gramine struct{ folder string }

// NewGramine is for the pseudo-files in this folder, GramineFolder on a real machine.
func NewGramine(folder string) *Gramine { return &Gramine{folder} }

// Quote writes the report data in one write, reads the quote to its end, and compares.
func (g *Gramine) Quote(_ context.Context, reportData [ReportDataBytes]byte) (Evidence, error) {
	gramineLock.Lock()
	defer gramineLock.Unlock()
	if err := g.checkType(); err != nil {
		return Evidence{}, err
	}
	n, err := writePseudo(filepath.Join(g.folder, "user_report_data"), reportData[:])
	if err != nil {
		return Evidence{}, failed("gramine_report_data", err)
	}
	if n != len(reportData) {
		return Evidence{}, failure("gramine_report_data_short", fmt.Sprintf("%d of %d bytes", n, len(reportData)))
	}
	quote, err := g.read()
	if err != nil {
		return Evidence{}, err
	}
	if !bytes.Equal(quote[sgxReportData:sgxReportData+ReportDataBytes], reportData[:]) {
		return Evidence{}, failure("gramine_quote_stale", "")
	}
	if binary.LittleEndian.Uint64(quote[sgxFlags:])&sgxDebug != 0 {
		return Evidence{}, failure("gramine_debug", "")
	}
	return Evidence{SGX, quote}, nil
}

func (g *Gramine) read() ([]byte, error) {
	quote, err := readPseudo(filepath.Join(g.folder, "quote"), wire.QuoteBytes)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return nil, failed("gramine_no_quote_file", err)
	case errors.Is(err, syscall.EACCES):
		return nil, failed("gramine_quote_refused", err)
	case err != nil:
		return nil, failed("gramine_quote_failed", err)
	case len(quote) == 0:
		return nil, failure("gramine_quote_empty", "")
	case len(quote) > wire.QuoteBytes:
		return nil, failure("gramine_quote_large", fmt.Sprintf("more than %d bytes", wire.QuoteBytes))
	case len(quote) < sgxReportData+ReportDataBytes:
		return nil, failure("gramine_quote_short", fmt.Sprintf("%d bytes", len(quote)))
	}
	return quote, nil
}

func (g *Gramine) checkType() error {
	kind, err := readPseudo(filepath.Join(g.folder, "attestation_type"), fieldBytes)
	if err != nil {
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR) {
			return failed("gramine_type_unreadable", err)
		}
		if info, found := os.Stat(g.folder); found == nil && info.IsDir() {
			return failed("gramine_direct", err)
		}
		return failed("gramine_absent", err)
	}
	switch string(kind) {
	case "dcap":
		return nil
	case "none":
		return failure("gramine_type_none", "")
	case "epid":
		return failure("gramine_type_epid", "")
	default:
		return failure("gramine_type_unknown", strconv.QuoteToASCII(string(kind[:min(len(kind), 20)])))
	}
}
