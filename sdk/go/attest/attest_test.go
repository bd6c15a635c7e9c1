// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/cross-language-framework/clf-go/problem"
)

var wanted = [ReportDataBytes]byte{0: 1, 31: 2, 63: 3}

func sgxQuote(data [ReportDataBytes]byte) []byte {
	quote := make([]byte, 5000)
	copy(quote[sgxReportData:], data[:])
	return quote
}

func tdxQuote(version uint16, data [ReportDataBytes]byte) []byte {
	quote := make([]byte, 5000)
	binary.LittleEndian.PutUint16(quote, version)
	binary.LittleEndian.PutUint32(quote[4:], teeTDX)
	copy(quote[tdxReportData[version]:], data[:])
	return quote
}

func expectCode(t *testing.T, err error, code string) {
	t.Helper()
	if string(problem.CodeOf(err)) != code {
		t.Errorf("expected %s, got %v", code, err)
	}
}

// Every code of this package has the cause and remedy that docs/attesters.md gives for it.
func TestFailuresAreThoseOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../../docs/attesters.md")
	if err != nil {
		t.Skip("docs/attesters.md is not here: this is the module alone, without its repository")
	}
	rows := regexp.MustCompile("(?m)^\\| `((?:gramine|tsm)_[a-z_]+)` \\| (.*) \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1)
	if len(rows) != len(failures) {
		t.Errorf("%d rows, %d codes", len(rows), len(failures))
	}
	for _, row := range rows {
		if k := failures[row[1]]; k.cause != row[2] || k.remedy != row[3] {
			t.Errorf("%s: %q, %q", row[1], k.cause, k.remedy)
		}
	}
}

// gramineFolder is a folder with files as Gramine has them; they are plain ones, so the quote is made beforehand.
func gramineFolder(t *testing.T, kind string, quote []byte) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range map[string][]byte{
		"attestation_type": []byte(kind), "user_report_data": nil, "quote": quote,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// What an enclave states is what was asked, in one write of 64 bytes; everything else is refused with its own code.
func TestGramine(t *testing.T) {
	folder := gramineFolder(t, "dcap", sgxQuote(wanted))
	evidence, err := NewGramine(folder).Quote(context.Background(), wanted)
	if err != nil || evidence.Format != SGX || len(evidence.Quote) != 5000 {
		t.Fatal(err)
	}
	written, _ := os.ReadFile(filepath.Join(folder, "user_report_data"))
	if string(written) != string(wanted[:]) {
		t.Error("other report data were written")
	}
	debug := sgxQuote(wanted)
	debug[sgxFlags] |= sgxDebug
	for code, folder := range map[string]string{
		"gramine_type_none":    gramineFolder(t, "none", nil),
		"gramine_type_epid":    gramineFolder(t, "epid", nil),
		"gramine_type_unknown": gramineFolder(t, "dcap\n", nil),
		"gramine_quote_empty":  gramineFolder(t, "dcap", nil),
		"gramine_quote_short":  gramineFolder(t, "dcap", make([]byte, 431)),
		"gramine_quote_large":  gramineFolder(t, "dcap", make([]byte, 20000)),
		"gramine_quote_stale":  gramineFolder(t, "dcap", sgxQuote([ReportDataBytes]byte{})),
		"gramine_debug":        gramineFolder(t, "dcap", debug),
		"gramine_direct":       t.TempDir(),
		"gramine_absent":       "/nowhere",
	} {
		_, err := NewGramine(folder).Quote(context.Background(), wanted)
		expectCode(t, err, code)
	}
	folder = gramineFolder(t, "dcap", nil)
	_ = os.Remove(filepath.Join(folder, "quote"))
	_, err = NewGramine(folder).Quote(context.Background(), wanted)
	expectCode(t, err, "gramine_no_quote_file")
	_ = os.Remove(filepath.Join(folder, "user_report_data"))
	_, err = NewGramine(folder).Quote(context.Background(), wanted)
	expectCode(t, err, "gramine_report_data")
}

// kernel answers as configfs-tsm does.
type kernel struct {
	provider, generation string
	busy                 int // how often outblob is not there yet
	errno                error
	quote                []byte
	written              []byte
	short                bool
}

func (k *kernel) attester(t *testing.T) *TSM {
	tsm := NewTSM(t.TempDir())
	tsm.write = func(_ string, data []byte) (int, error) {
		k.written = append([]byte(nil), data...)
		if k.short {
			return 63, nil
		}
		return len(data), nil
	}
	tsm.read = func(path string, _ int) ([]byte, error) {
		switch filepath.Base(path) {
		case "provider":
			return []byte(k.provider + "\n"), nil
		case "generation":
			return []byte(k.generation + "\n"), nil
		}
		if k.busy > 0 {
			k.busy--
			return nil, syscall.EBUSY
		}
		return k.quote, k.errno
	}
	tsm.sleep = func(context.Context, time.Duration) error { return nil }
	return tsm
}

// A trust domain's quote states what was asked; the directory is removed, the host's pauses are waited for.
func TestTSM(t *testing.T) {
	for _, version := range []uint16{4, 5} {
		k := &kernel{provider: "tdx_guest", generation: "1", busy: 5, quote: tdxQuote(version, wanted)}
		tsm := k.attester(t)
		evidence, err := tsm.Quote(context.Background(), wanted)
		if err != nil || evidence.Format != TDX {
			t.Fatal(err)
		}
		if string(k.written) != string(wanted[:]) {
			t.Error("other report data were written")
		}
		if left, _ := os.ReadDir(tsm.folder); len(left) != 0 {
			t.Error("the request's directory is still there")
		}
	}
	good := tdxQuote(4, wanted)
	for code, k := range map[string]*kernel{
		"tsm_sev":              {provider: "sev_guest"},
		"tsm_provider_unknown": {provider: "arm_cca_guest"},
		"tsm_inblob_short":     {provider: "tdx_guest", short: true},
		"tsm_busy":             {provider: "tdx_guest", busy: 6},
		"tsm_timeout":          {provider: "tdx_guest", errno: syscall.ETIMEDOUT},
		"tsm_quote_failed":     {provider: "tdx_guest", errno: syscall.EIO},
		"tsm_input_refused":    {provider: "tdx_guest", errno: syscall.EINVAL},
		"tsm_failed":           {provider: "tdx_guest", errno: syscall.ENOMEM},
		"tsm_quote_empty":      {provider: "tdx_guest", generation: "1"},
		"tsm_interfered":       {provider: "tdx_guest", generation: "2", quote: good},
		"tsm_quote_stale":      {provider: "tdx_guest", generation: "1", quote: tdxQuote(4, [ReportDataBytes]byte{})},
		"tsm_quote_malformed":  {provider: "tdx_guest", generation: "1", quote: sgxQuote(wanted)},
		"tsm_quote_large":      {provider: "tdx_guest", generation: "1", quote: make([]byte, 16385)},
	} {
		_, err := k.attester(t).Quote(context.Background(), wanted)
		expectCode(t, err, code)
	}
	_, err := NewTSM("/nowhere").Quote(context.Background(), wanted)
	expectCode(t, err, "tsm_absent")
}

// The simulated platform gets 64 bytes and an end; what it answers is taken to its end, and silence is an error.
func TestSimulator(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	answers := make(chan []byte, 2)
	go func() {
		for answer := range answers {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			if asked, _ := io.ReadAll(connection); len(asked) == ReportDataBytes {
				_, _ = connection.Write(answer)
			}
			_ = connection.Close()
		}
	}()
	answers <- []byte("a quote")
	evidence, err := NewSimulator(socket).Quote(context.Background(), wanted)
	if err != nil || string(evidence.Quote) != "a quote" || evidence.Format != SGX {
		t.Fatal(err)
	}
	answers <- nil
	_, err = NewSimulator(socket).Quote(context.Background(), wanted)
	expectCode(t, err, "attester_unavailable")
	close(answers)
	_, err = NewSimulator(socket+"x").Quote(context.Background(), wanted)
	if expectCode(t, err, "attester_unavailable"); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}

// Gramine comes before the simulator, that before TDX; where nothing is, that is said.
func TestDetect(t *testing.T) {
	gramine, reports := gramineFolder(t, "none", nil), t.TempDir()
	for _, c := range []struct {
		places Places
		found  Attester
	}{
		{Places{gramine, "socket", reports}, &Gramine{}},
		{Places{"/nowhere", "socket", reports}, &Simulator{}},
		{Places{"", "", reports}, &TSM{}},
	} {
		found, err := Detect(c.places)
		same := false
		switch c.found.(type) {
		case *Gramine:
			_, same = found.(*Gramine)
		case *Simulator:
			_, same = found.(*Simulator)
		case *TSM:
			_, same = found.(*TSM)
		}
		if err != nil || !same {
			t.Errorf("%+v: %T, %v", c.places, found, err)
		}
	}
	_, err := Detect(Places{"/nowhere", "", "/nowhere"})
	expectCode(t, err, "attester_unavailable")
}
