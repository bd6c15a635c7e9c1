// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

const (
	defaultPort = "4433"
	typeJSON    = "application/json"
	typeSealed  = "application/vnd.clf.sealed"
	userAgent   = "clf-go/" + Version
)

// parseURL gives host and port of an owner's URL.
func parseURL(text string) (host, port string, err error) {
	refused := func(why string) (string, string, error) {
		return "", "", &problem.Error{
			Code: problem.ConfigInvalid, Message: wire.Shown(text) + why,
			Remedy: "write it like https://hospital-a.example:4433",
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return refused(" is not an https URL with a host")
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil {
		return refused(" has more than host and port")
	}
	port = u.Port()
	if port == "" {
		port = defaultPort
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return refused(" has no port that can be")
	}
	return strings.ToLower(u.Hostname()), port, nil
}

// link is how to reach one owner and nobody else: TLS 1.3, the pinned CA, no proxy, no redirect, no cookie.
type link struct {
	base      string
	transport *http.Transport
}

func newLink(host, port string, ca []byte) (*link, error) {
	pool, err := certificates(ca)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: connectTimeout}
	return &link{
		base: "https://" + net.JoinHostPort(host, port),
		transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
			TLSHandshakeTimeout:    connectTimeout,
			TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 only
			DisableCompression:     true,
			MaxIdleConnsPerHost:    connectionsMost,
			IdleConnTimeout:        idleConnection,
			MaxResponseHeaderBytes: fieldsBytes,
			ReadBufferSize:         64 * 1024,
			WriteBufferSize:        64 * 1024,
		},
	}, nil
}

// certificates reads the pinned CA: PEM certificates and nothing else, each of a CA.
func certificates(ca []byte) (*x509.CertPool, error) {
	refused := func(why string) error {
		return &problem.Error{
			Code: problem.ConfigInvalid, Message: "the CA " + why,
			Remedy: "take keys/tls/ca.crt of the owner's server folder",
		}
	}
	pool, count := x509.NewCertPool(), 0
	for block, rest := pem.Decode(ca); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, refused("holds something else than certificates")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, refused("is not one or more PEM certificates")
		}
		if !certificate.IsCA {
			return nil, refused("file holds a certificate that is not of a CA")
		}
		pool.AddCert(certificate)
		count++
	}
	if count == 0 {
		return nil, refused("is not one or more PEM certificates")
	}
	return pool, nil
}

// request is one HTTP request; body is read once, and has size bytes.
type request struct {
	method, path string
	query        url.Values
	token        string
	body         io.Reader
	size         int64
	content      string // media type of the body
	success      []int
}

// empty is a body without bytes that is not nil: the transport sends a GET without one again by itself, when it finds the
// connection closed, and no nonce may be used twice.
type empty struct{}

func (empty) Read([]byte) (int, error) { return 0, io.EOF }
func (empty) Close() error             { return nil }

// send makes one request and gives the answer if its status is that of a success. close must be called.
func (l *link) send(ctx context.Context, r *request, tries *attempts) (answer *http.Response, done func(), err error) {
	guarded, end := tries.guard(ctx)
	body := io.ReadCloser(http.NoBody)
	switch {
	case r.body != nil:
		body = io.NopCloser(r.body)
	case r.method == http.MethodGet:
		body = empty{}
	}
	target := l.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	q, err := http.NewRequestWithContext(guarded, r.method, target, body)
	if err != nil {
		end()
		return nil, nil, problem.New(problem.Misuse, "no request can be made: "+err.Error())
	}
	q.ContentLength = r.size
	if body == (empty{}) {
		// Or the transport waits 200 ms for its first byte to be read, and beyond that sends it in chunks.
		q.TransferEncoding = []string{"identity"}
	}
	q.Header.Set("User-Agent", userAgent)
	q.Header.Set("Accept-Encoding", "identity")
	if r.token != "" {
		q.Header.Set("Authorization", "Bearer "+r.token)
	}
	if r.content != "" {
		q.Header.Set("Content-Type", r.content)
	}
	// The transport itself, not a client: a client would follow redirects.
	answer, err = l.transport.RoundTrip(q)
	if err != nil {
		err = mapped(ctx, guarded, err)
		end()
		return nil, nil, err
	}
	body = answer.Body
	done = func() {
		_ = body.Close()
		end()
	}
	if !slices.Contains(r.success, answer.StatusCode) {
		defer done()
		data, err := io.ReadAll(io.LimitReader(answer.Body, wire.ProblemBytes+1))
		if err != nil {
			data = nil
		}
		if ctx.Err() != nil {
			return nil, nil, cancelled(ctx)
		}
		return nil, nil, wire.ParseProblem(answer.StatusCode, data, answer.Header.Get("Retry-After"))
	}
	answer.Body = &answerBody{answer.Body, ctx, guarded}
	return answer, done, nil
}

// answerBody gives errors of this package.
type answerBody struct {
	io.ReadCloser
	ctx, guarded context.Context
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = mapped(b.ctx, b.guarded, err)
	}
	return n, err
}

// call is one request and its whole, small answer.
func (l *link) call(ctx context.Context, r *request, tries *attempts) ([]byte, error) {
	answer, done, err := l.send(ctx, r, tries)
	if err != nil {
		return nil, err
	}
	defer done()
	data, err := io.ReadAll(io.LimitReader(answer.Body, wire.AnswerBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > wire.AnswerBytes {
		return nil, problem.New(problem.TooLarge, fmt.Sprintf("an answer of more than %d bytes", wire.AnswerBytes))
	}
	return data, nil
}

// mapped turns what net/http, tls and the sockets say into errors of this package.
func mapped(ctx, guarded context.Context, err error) error {
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	if context.Cause(guarded) == errStalled {
		return &cut{"no answer in time", err}
	}
	var verification *tls.CertificateVerificationError
	if errors.As(err, &verification) {
		return &problem.Error{
			Code: problem.CertificateRefused, Cause: err,
			Message: "the server's certificate is not to be trusted: " + wire.Readable(verification.Err.Error(), 200),
			Remedy:  "is the pinned CA that of this owner, is its certificate in date, and does it name this host?",
		}
	}
	var record tls.RecordHeaderError
	var alert tls.AlertError
	const protocolVersion = 70
	if errors.As(err, &record) || errors.As(err, &alert) && alert == protocolVersion ||
		strings.Contains(err.Error(), "unsupported protocol version") || // ours
		strings.Contains(err.Error(), "protocol version not supported") { // the server's alert, whose type is not exported
		return &problem.Error{
			Code: problem.TLSRefused, Cause: err, Message: "the server does not speak TLS 1.3",
			Remedy: "is the URL that of a CLF server, and the port right?",
		}
	}
	return &cut{words(err), err}
}

// words is one plain sentence; the library's own text names addresses and internals.
func words(err error) string {
	var name *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &name):
		return "the host's name is not known"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	default:
		return "the connection was cut"
	}
}
