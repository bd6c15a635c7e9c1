// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cross-language-framework/clf-go/attest"
	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// client is one owner: how to reach it, whom to believe there, and who speaks for this enclave.
type client struct {
	*link
	identities []string
	attester   attest.Attester
	timeout    time.Duration
	room       room

	mutex   sync.Mutex
	closing map[chan struct{}]bool // transfers that are being closed
}

func (c *client) attempts() *attempts { return newAttempts(c.timeout) }

// transfer is one open transfer. It holds secrets: never format it.
type transfer struct {
	request  []byte
	id       string
	path     string
	audience string
	identity wire.PublicKey
	size     int64
	etag     string
	modified *int64
	secret   []byte
	token    string
	ended    atomic.Bool // the owner said so
}

// String keeps the secrets out of every log.
func (t *transfer) String() string { return "transfer " + t.id }

// GoString as String.
func (t *transfer) GoString() string { return t.String() }

func (t *transfer) url(what string) string { return "/v1/transfers/" + t.id + what }

func (t *transfer) input() Input { return Input{Owner: t.audience, Transfer: t.id} }

// asked is a request with its evidence, to be sent as often as it takes.
type asked struct {
	wire.Request
	sent     []byte
	body     []byte
	identity wire.PublicKey
	key      *ecdh.PrivateKey
}

// open attests and opens a transfer for what is wanted; its Audience, Challenge, Run and Key are filled in here.
func (c *client) open(ctx context.Context, wanted wire.Request) (*transfer, error) {
	a, grant, err := c.negotiate(ctx, wanted)
	if err != nil {
		return nil, err
	}
	t := &transfer{
		request: a.sent, id: wire.TransferID(a.sent), path: wanted.Path, audience: a.Audience, identity: a.identity,
		size: grant.Size, etag: grant.Etag, modified: grant.Modified, secret: grant.Secret, token: grant.Token,
	}
	if wanted.Action == wire.ActionRead {
		record(t.input())
	}
	return t, nil
}

// negotiate goes through challenge, evidence and grant. Where the answer was lost the same request is sent again, which
// the owner charges once.
func (c *client) negotiate(ctx context.Context, wanted wire.Request) (*asked, *wire.Grant, error) {
	tries := c.attempts()
	var a *asked
	for {
		grant, err := func() (*wire.Grant, error) {
			if a == nil {
				var err error
				if a, err = c.ask(ctx, wanted, tries); err != nil {
					return nil, err
				}
			}
			answer, err := c.call(ctx, &request{
				method: http.MethodPost, path: "/v1/transfers", body: bytes.NewReader(a.body), size: int64(len(a.body)),
				content: typeJSON, success: []int{http.StatusCreated, http.StatusOK},
			}, tries)
			if err != nil {
				return nil, err
			}
			token, err := wire.ParseGrantAnswer(answer)
			if err != nil {
				return nil, err
			}
			return wire.OpenGrant(token, a.sent, &a.Request, a.key, a.identity)
		}()
		if err == nil {
			a.key = nil
			return a, grant, nil
		}
		switch adviceOf(err) {
		case problem.Attest:
			a = nil
			err = tries.reopen(ctx, err)
		case problem.Retry:
			err = tries.failed(ctx, err)
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// ask gets a challenge, checks whose it is, and has the platform make evidence for the request.
func (c *client) ask(ctx context.Context, wanted wire.Request, tries *attempts) (*asked, error) {
	answer, err := c.call(ctx, &request{
		method: http.MethodPost, path: "/v1/challenges", success: []int{http.StatusCreated},
	}, tries)
	if err != nil {
		return nil, err
	}
	challenge, err := wire.ParseChallenge(answer)
	if err != nil {
		return nil, err
	}
	audience := challenge.Identity.Thumbprint()
	if !slices.Contains(c.identities, audience) {
		return nil, &problem.Error{
			Code:    problem.IdentityUnknown,
			Message: "the server is " + audience + ", which is none of the pinned owners",
			Remedy:  "compare with `clf server check` on the owner's side; pin the next key before the owner rotates",
		}
	}
	a := &asked{Request: wanted, identity: challenge.Identity}
	if a.key, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		return nil, problem.New(problem.Misuse, "no key can be made: "+err.Error())
	}
	a.Audience, a.Challenge, a.Run, a.Key = audience, challenge.Challenge, run(), wire.PublicKeyOf(a.key)
	if a.sent, err = a.Encode(); err != nil {
		return nil, err
	}
	evidence, err := c.attester.Quote(ctx, wire.ReportData(a.sent))
	if err == nil {
		err = evidence.Check()
	}
	if err != nil {
		return nil, attestation(ctx, err)
	}
	a.body = fmt.Appendf(nil, `{"request":%q,"evidence":{"format":%q,"quote":%q}}`,
		wire.Base64url(a.sent), evidence.Format, wire.Base64url(evidence.Quote))
	return a, nil
}

// attestation keeps errors of an attester that is not ours from being taken for an owner's.
func attestation(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	if problem.CodeOf(err) != "" {
		return err
	}
	return &problem.Error{Code: problem.AttesterUnavailable, Message: "no evidence: " + err.Error(), Cause: err}
}

// end tells the owner that a transfer is over, and does not wait; Owner.Close does.
func (c *client) end(t *transfer) {
	if t == nil {
		return
	}
	done := make(chan struct{})
	c.mutex.Lock()
	c.closing[done] = true
	c.mutex.Unlock()
	go func() {
		c.endNow(t)
		c.mutex.Lock()
		delete(c.closing, done)
		c.mutex.Unlock()
		close(done)
	}()
}

// ended waits for the transfers that are being closed, which takes no longer than closeTimeout.
func (c *client) ended() {
	c.mutex.Lock()
	waiting := slices.Collect(maps.Keys(c.closing))
	c.mutex.Unlock()
	for _, done := range waiting {
		<-done
	}
}

// endNow is a courtesy: the owner's idle limit does the same.
func (c *client) endNow(t *transfer) {
	limit := min(closeTimeout, c.timeout)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, _ = c.call(ctx, &request{
		method: http.MethodDelete, path: t.url(""), token: t.token, success: []int{http.StatusNoContent},
	}, newAttempts(limit))
}
