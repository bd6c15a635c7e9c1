// SPDX-License-Identifier: Apache-2.0

//go:build unix

package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cross-language-framework/clf-go/internal/wire"
)

// TSMFolder is where Linux has its reports.
const TSMFolder = "/sys/kernel/config/tsm/report"

const (
	tsmTries = 6
	tsmNames = 8
	tsmPause = 500 * time.Millisecond // before the second read, doubled each time
	teeTDX   = 0x81
)

// tdxReportData says where the report data stand in a quote, by its version (Intel TDX DCAP Quote Generation Library,
// appendix A.3).
var tdxReportData = map[uint16]int{4: 568, 5: 574}

var tsmMkdir = map[error]string{
	syscall.ENOENT: "tsm_absent", syscall.ENOTDIR: "tsm_absent", syscall.ENXIO: "tsm_no_provider",
	syscall.EACCES: "tsm_not_permitted", syscall.EPERM: "tsm_not_permitted", syscall.EROFS: "tsm_read_only",
}

var tsmOutblob = map[error]string{
	syscall.EBUSY: "tsm_busy", syscall.ETIMEDOUT: "tsm_timeout", syscall.EINVAL: "tsm_input_refused",
	syscall.EIO: "tsm_quote_failed", syscall.EFBIG: "tsm_quote_large", syscall.ENXIO: "tsm_provider_gone",
	syscall.ENOENT: "tsm_provider_gone", syscall.EACCES: "tsm_not_permitted",
}

// TSM quotes an Intel TDX trust domain over configfs-tsm. Every request has a directory of its own, so goroutines and
// processes do not meet.
type TSM struct {
	folder string
	read   func(path string, most int) ([]byte, error)
	write  func(path string, data []byte) (int, error)
	sleep  func(context.Context, time.Duration) error
}

// NewTSM is for the reports in this folder, TSMFolder on a real machine.
func NewTSM(folder string) *TSM { return &TSM{folder, readPseudo, writePseudo, sleep} }

func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Quote makes a request's directory, has the kernel take the report data and make the quote, and checks that nobody else
// wrote there.
func (t *TSM) Quote(ctx context.Context, reportData [ReportDataBytes]byte) (Evidence, error) {
	folder, err := t.mkdir()
	if err != nil {
		return Evidence{}, err
	}
	// What is left over costs the kernel a few kB and spoils no evidence.
	defer func() { _ = syscall.Rmdir(folder) }()
	if err := t.checkProvider(folder); err != nil {
		return Evidence{}, err
	}
	n, err := t.write(filepath.Join(folder, "inblob"), reportData[:])
	if err != nil {
		return Evidence{}, failed("tsm_inblob", err)
	}
	if n != len(reportData) {
		return Evidence{}, failure("tsm_inblob_short", fmt.Sprintf("%d of %d bytes", n, len(reportData)))
	}
	quote, err := t.outblob(ctx, folder)
	if err != nil {
		return Evidence{}, err
	}
	generation, err := t.read(filepath.Join(folder, "generation"), fieldBytes)
	if err != nil {
		return Evidence{}, failed("tsm_generation_unreadable", err)
	}
	if text := strings.TrimSpace(string(generation)); text != "1" {
		return Evidence{}, failure("tsm_interfered", "generation "+strconv.QuoteToASCII(text[:min(len(text), 20)]))
	}
	return Evidence{TDX, quote}, checkTDX(quote, reportData)
}

func (t *TSM) mkdir() (string, error) {
	for range tsmNames {
		var name [8]byte
		if _, err := rand.Read(name[:]); err != nil {
			return "", failed("tsm_directory", err)
		}
		folder := filepath.Join(t.folder, fmt.Sprintf("clf-%d-%s", os.Getpid(), hex.EncodeToString(name[:])))
		err := syscall.Mkdir(folder, 0o700)
		if errors.Is(err, syscall.EEXIST) {
			continue
		}
		if err != nil {
			return "", failed(codeOf(tsmMkdir, err, "tsm_directory"), err)
		}
		return folder, nil
	}
	return "", failure("tsm_directory", "every name is taken")
}

func (t *TSM) checkProvider(folder string) error {
	data, err := t.read(filepath.Join(folder, "provider"), fieldBytes)
	if err != nil {
		return failed("tsm_provider_unreadable", err)
	}
	switch name := strings.TrimSpace(string(data)); name {
	case "tdx_guest":
		return nil
	case "sev_guest":
		return failure("tsm_sev", "")
	default:
		return failure("tsm_provider_unknown", strconv.QuoteToASCII(name[:min(len(name), 40)]))
	}
}

// outblob is made at its first read; while the host is busy it is read again.
func (t *TSM) outblob(ctx context.Context, folder string) ([]byte, error) {
	pause := tsmPause
	for try := 1; ; try++ {
		quote, err := t.read(filepath.Join(folder, "outblob"), wire.QuoteBytes)
		if err == nil {
			return quote, nil
		}
		again := errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ETIMEDOUT)
		if !again || try == tsmTries {
			return nil, failed(codeOf(tsmOutblob, err, "tsm_failed"), err)
		}
		if err := t.sleep(ctx, pause); err != nil {
			return nil, failed("tsm_busy", err)
		}
		pause *= 2
	}
}

func codeOf(codes map[error]string, err error, otherwise string) string {
	for errno, code := range codes {
		if errors.Is(err, errno) {
			return code
		}
	}
	return otherwise
}

func checkTDX(quote []byte, reportData [ReportDataBytes]byte) error {
	switch {
	case len(quote) == 0:
		return failure("tsm_quote_empty", "")
	case len(quote) > wire.QuoteBytes:
		return failure("tsm_quote_large", fmt.Sprintf("more than %d bytes", wire.QuoteBytes))
	case len(quote) < 8:
		return failure("tsm_quote_malformed", fmt.Sprintf("%d bytes", len(quote)))
	}
	at, ok := tdxReportData[binary.LittleEndian.Uint16(quote)]
	if !ok || binary.LittleEndian.Uint32(quote[4:]) != teeTDX || len(quote) < at+ReportDataBytes {
		return failure("tsm_quote_malformed", fmt.Sprintf("%d bytes, beginning with %x", len(quote), quote[:8]))
	}
	if !bytes.Equal(quote[at:at+ReportDataBytes], reportData[:]) {
		return failure("tsm_quote_stale", "")
	}
	return nil
}
