// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

const simulatorTimeout = 10 * time.Second

// Simulator asks the simulated platform that `clf run` plays. The app cannot say what it is: the launcher has measured
// it. It protects nothing.
type Simulator struct{ socket string }

// NewSimulator is for the platform behind this Unix socket.
func NewSimulator(socket string) *Simulator { return &Simulator{socket} }

// Quote writes the 64 bytes, ends writing, and reads the quote to its end. One connection each.
func (s *Simulator) Quote(ctx context.Context, reportData [ReportDataBytes]byte) (Evidence, error) {
	ctx, cancel := context.WithTimeout(ctx, simulatorTimeout)
	defer cancel()
	quote, err := s.ask(ctx, reportData)
	if err == nil && len(quote) > 0 {
		evidence := Evidence{SGX, quote}
		return evidence, evidence.Check()
	}
	e := problem.New(problem.AttesterUnavailable, "the simulated platform refused to quote")
	if err != nil {
		e = problem.New(problem.AttesterUnavailable, "the simulated platform does not answer: "+err.Error())
	}
	e.Remedy, e.Cause = "start the app with `clf run`, which plays the platform as long as the app runs", err
	return Evidence{}, e
}

func (s *Simulator) ask(ctx context.Context, reportData [ReportDataBytes]byte) ([]byte, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", s.socket)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	stop := context.AfterFunc(ctx, func() { _ = connection.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := connection.Write(reportData[:]); err != nil {
		return nil, err
	}
	if half, ok := connection.(*net.UnixConn); ok {
		if err := half.CloseWrite(); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(connection, wire.QuoteBytes+1))
}
