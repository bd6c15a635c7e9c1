// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// parts are those of one result on their way to its owner, in order, until the owner holds each of them durably. One
// goroutine uses them at a time.
type parts struct {
	client  *client
	wanted  wire.Request
	live    *transfer // another one takes its place where that loses nothing
	path    string
	most    int64 // bytes that the result may have
	part    int   // bytes in one request; less, once the owner takes no more
	durable int64 // bytes that the owner acknowledged
}

// upload has the owner hold all of data durably. Its plaintext stays here until a sealed status acknowledges it.
func (p *parts) upload(ctx context.Context, data []byte) error {
	base, most := p.durable, min(len(data), p.part)
	tries := p.client.attempts()
	for p.durable < base+int64(len(data)) {
		rest := data[p.durable-base:]
		size := min(most, len(rest))
		status, err := p.put(ctx, rest[:size], tries)
		if err == nil {
			// Whoever takes a part holds it, or it would be sent again for ever.
			if err := p.advance(status, p.durable+int64(size), base+int64(len(data))); err != nil {
				return err
			}
			tries.progress()
			continue
		}
		var wasCut *cut
		switch {
		case errors.As(err, &wasCut):
			most = max(size/2, partLeastBytes)
		case refusedSize(err) && size > partLeastBytes:
			// An owner may take smaller parts than the protocol allows; halving ends, whoever answered this.
			most = max(size/2, partLeastBytes)
			p.part = min(p.part, most)
			continue
		case adviceOf(err) == problem.Attest && p.durable == 0:
			if err := p.openAnew(ctx, tries, err); err != nil {
				return err
			}
			continue
		case adviceOf(err) != problem.Retry && adviceOf(err) != problem.Status:
			return err
		}
		if err := tries.failed(ctx, err); err != nil {
			return err
		}
		before := p.durable
		if status, err = p.status(ctx, tries); err != nil {
			return err
		}
		if err := p.advance(status, before, base+int64(len(data))); err != nil {
			return err
		}
		if p.durable > before {
			tries.progress()
		}
	}
	return nil
}

// refusedSize says whether a server, and not this client, found something too large.
func refusedSize(err error) bool {
	var answer *problem.Error
	return errors.As(err, &answer) && answer.Code == problem.TooLarge && answer.Status != 0
}

// put sends one part and gives the owner's sealed status.
func (p *parts) put(ctx context.Context, data []byte, tries *attempts) (*wire.Status, error) {
	nonce := newNonce()
	sealer, err := wire.NewSealer(p.live.secret, &wire.Context{
		Op: wire.OpUp, ID: p.live.id, Path: p.path, Offset: p.durable, Length: int64(len(data)), Nonce: nonce,
	}, data)
	if err != nil {
		return nil, err
	}
	body := &outgoing{sealer: sealer, tries: tries}
	// The transport may go on reading after it has an answer, and the memory of data is used for a later part.
	defer body.stop()
	answer, err := p.client.call(ctx, &request{
		method: http.MethodPut, path: p.live.url("/content"), token: p.live.token, content: typeSealed,
		query: url.Values{
			"offset": {strconv.FormatInt(p.durable, 10)}, "length": {strconv.Itoa(len(data))},
			"nonce": {wire.Base64url(nonce)},
		},
		body: body, size: wire.SealedSize(int64(len(data))), success: []int{http.StatusOK},
	}, tries)
	if err != nil {
		return nil, err
	}
	return p.openStatus(answer, nonce)
}

// outgoing is a part on its way.
type outgoing struct {
	mutex   sync.Mutex
	sealer  *wire.Sealer
	tries   *attempts
	moved   int
	stopped bool
}

func (o *outgoing) Read(p []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if o.stopped {
		return 0, io.ErrClosedPipe
	}
	n, err := o.sealer.Read(p)
	if o.moved += n; o.moved >= 256*1024 {
		o.moved = 0
		o.tries.moving()
	}
	return n, err
}

func (o *outgoing) stop() {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.stopped = true
}

// status asks, until there is an answer, how much the owner holds.
func (p *parts) status(ctx context.Context, tries *attempts) (*wire.Status, error) {
	for {
		nonce := newNonce()
		answer, err := p.client.call(ctx, &request{
			method: http.MethodGet, path: p.live.url(""), token: p.live.token,
			query: url.Values{"nonce": {wire.Base64url(nonce)}}, success: []int{http.StatusOK},
		}, tries)
		if err == nil {
			return p.openStatus(answer, nonce)
		}
		if adviceOf(err) != problem.Retry {
			return nil, err
		}
		if err := tries.failed(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (p *parts) openStatus(answer, nonce []byte) (*wire.Status, error) {
	sealed := &wire.Context{Op: wire.OpStatus, ID: p.live.id, Path: p.path, Nonce: nonce}
	plain, err := wire.OpenSealed(p.live.secret, sealed, answer, wire.StatusBytes)
	if err != nil {
		return nil, err
	}
	return wire.ParseStatus(plain)
}

// advance takes what a sealed status states, if it can be true. More than the last part is possible: an earlier, larger
// one may have arrived after its answer was given up.
func (p *parts) advance(status *wire.Status, least, most int64) error {
	if status.State != "open" {
		return problem.New(problem.Code("transfer_"+status.State),
			wire.Shown(p.path)+": the owner says that the transfer is "+status.State)
	}
	if status.Received < least || status.Received > most {
		return &problem.Error{
			Code: problem.Integrity, Cause: problem.UploadLost,
			Message: fmt.Sprintf("%s: the owner holds %d bytes, which cannot be: it took %d, and %d were sent at most",
				wire.Shown(p.path), status.Received, least, most),
			Remedy: "was the owner's state or results folder restored from a backup? write the result anew",
		}
	}
	p.durable = status.Received
	return nil
}

// openAnew: the transfer ended before the owner held anything, and another one serves as well.
func (p *parts) openAnew(ctx context.Context, tries *attempts, err error) error {
	if err := tries.reopen(ctx, err); err != nil {
		return err
	}
	t, err := p.client.open(ctx, p.wanted)
	if err != nil {
		return err
	}
	if t.size < p.most {
		p.client.end(t)
		return problem.New(problem.TooLarge, wire.Shown(p.path)+": the owner allows fewer bytes than before")
	}
	p.live = t
	return nil
}
