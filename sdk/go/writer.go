// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// Receipt is the owner's signed word that a result is published, checked against what was sent.
type Receipt = wire.Receipt

// CreateOptions are what Create may be told.
type CreateOptions struct {
	// Size is the most bytes that the result may have; 0 takes what the owner allows.
	Size int64
	// PartBytes is how much is kept in memory and acknowledged at once: 16 KiB to 64 MiB, 32 MiB where it is 0.
	PartBytes int
	// Inputs names what the result was computed from. Nil means everything that this process has read from any owner.
	Inputs []Input
}

type writerState int

const (
	writerOpen writerState = iota
	writerCommitted
	writerAborted
)

// Writer is a result that is being written. The owner sees nothing of it before Commit. It is for one goroutine.
type Writer struct {
	ctx    context.Context
	client *client
	wanted wire.Request
	live   *transfer
	path   string
	most   int64
	part   int
	chosen []Input

	pending []byte // the part that is gathered
	durable int64  // bytes that the owner acknowledged
	written int64
	hash    hash.Hash
	state   writerState
	failed  error // the first failure of writing, which Commit repeats
	receipt *Receipt
}

var (
	_ io.WriteCloser = (*Writer)(nil)
	_ io.ReaderFrom  = (*Writer)(nil)
)

func (c *client) create(ctx context.Context, path string, options *CreateOptions) (*Writer, error) {
	if options == nil {
		options = &CreateOptions{}
	}
	part := options.PartBytes
	if part == 0 {
		part = partBytes
	}
	if part < partLeastBytes || part > wire.PartBytes || options.Size < 0 {
		return nil, problem.New(problem.Misuse, fmt.Sprintf("a part of %d bytes or a size of %d cannot be", part, options.Size))
	}
	if err := wire.CheckFile(path); err != nil {
		return nil, err
	}
	w := &Writer{
		ctx: ctx, client: c, path: path, part: part, chosen: options.Inputs, hash: sha256.New(),
		wanted: wire.Request{Action: wire.ActionWrite, Path: path},
	}
	if options.Size > 0 {
		w.wanted.Size = &options.Size
	}
	var err error
	if w.live, err = c.open(ctx, w.wanted); err != nil {
		return nil, err
	}
	w.most = w.live.size
	if options.Size > 0 {
		w.most = min(w.most, options.Size)
	}
	return w, nil
}

// Path is the result's name at its owner.
func (w *Writer) Path() string { return w.path }

// Written is how many bytes were written so far.
func (w *Writer) Written() int64 { return w.written }

// String names the result; it holds no secrets.
func (w *Writer) String() string {
	return fmt.Sprintf("clf.Writer(%s, %d bytes)", wire.Shown(w.path), w.written)
}

// Write adds bytes to the result, under the context that it was created with. After a failure it fails for good.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.admit(int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		rest := p[done:]
		if len(w.pending) == 0 && len(rest) >= w.part {
			rest = rest[:w.part] // sending may make the following parts smaller
			w.take(rest)
			if err := w.send(rest); err != nil {
				return done, err
			}
			done += len(rest)
			continue
		}
		rest = rest[:min(len(rest), w.part-len(w.pending))]
		w.take(rest)
		w.pending = append(w.pending, rest...)
		if err := w.sendFull(); err != nil {
			return done, err
		}
		done += len(rest)
	}
	return done, nil
}

// ReadFrom adds everything that r has. io.Copy uses it.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	var done int64
	for {
		w.pending = slices.Grow(w.pending, w.part-len(w.pending))
		room := w.pending[len(w.pending):w.part:w.part]
		n, err := r.Read(room)
		if refused := w.admit(int64(n)); refused != nil {
			return done, refused
		}
		w.take(room[:n])
		w.pending = w.pending[:len(w.pending)+n]
		done += int64(n)
		if failed := w.sendFull(); failed != nil {
			return done, failed
		}
		if err == io.EOF {
			return done, nil
		}
		if err != nil {
			return done, err
		}
	}
}

// admit says whether so many bytes more may be written.
func (w *Writer) admit(count int64) error {
	switch {
	case w.failed != nil:
		return w.failed
	case w.state != writerOpen:
		return problem.New(problem.Misuse, wire.Shown(w.path)+" takes no more bytes: it was committed or given up")
	case w.written+count > w.most:
		w.failed = &problem.Error{
			Code:    problem.TooLarge,
			Message: fmt.Sprintf("%s: more than the %d bytes that this transfer may have", wire.Shown(w.path), w.most),
			Remedy:  "pass a larger Size to Create, or ask the owner for a larger quota",
		}
		return w.failed
	}
	return nil
}

func (w *Writer) take(p []byte) {
	w.hash.Write(p)
	w.written += int64(len(p))
}

func (w *Writer) sendFull() error {
	if len(w.pending) < w.part {
		return nil
	}
	return w.sendPending()
}

func (w *Writer) sendPending() error {
	err := w.send(w.pending)
	w.pending = w.pending[:0]
	return err
}

// send has the owner hold all of data durably. A part's plaintext stays here until a sealed status acknowledges it.
func (w *Writer) send(data []byte) error {
	w.failed = w.upload(w.ctx, data)
	return w.failed
}

func (w *Writer) upload(ctx context.Context, data []byte) error {
	base, most := w.durable, len(data)
	tries := w.client.attempts()
	for w.durable < base+int64(len(data)) {
		rest := data[w.durable-base:]
		size := min(most, len(rest))
		status, err := w.put(ctx, rest[:size], tries)
		if err == nil {
			if err := w.advance(status, base+int64(len(data))); err != nil {
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
			w.part = min(w.part, most)
			continue
		case adviceOf(err) == problem.Attest && w.durable == 0:
			if err := w.openAnew(ctx, tries, err); err != nil {
				return err
			}
			continue
		case adviceOf(err) != problem.Retry && adviceOf(err) != problem.Status:
			return err
		}
		if err := tries.failed(ctx, err); err != nil {
			return err
		}
		before := w.durable
		if status, err = w.status(ctx, tries); err != nil {
			return err
		}
		if err := w.advance(status, base+int64(len(data))); err != nil {
			return err
		}
		if w.durable > before {
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
func (w *Writer) put(ctx context.Context, data []byte, tries *attempts) (*wire.Status, error) {
	nonce := newNonce()
	sealer, err := wire.NewSealer(w.live.secret, &wire.Context{
		Op: wire.OpUp, ID: w.live.id, Path: w.path, Offset: w.durable, Length: int64(len(data)), Nonce: nonce,
	}, data)
	if err != nil {
		return nil, err
	}
	body := &outgoing{sealer: sealer, tries: tries}
	// The transport may go on reading after it has an answer, and the caller may change data after Write.
	defer body.stop()
	answer, err := w.client.call(ctx, &request{
		method: http.MethodPut, path: w.live.url("/content"), token: w.live.token, content: typeSealed,
		query: url.Values{
			"offset": {strconv.FormatInt(w.durable, 10)}, "length": {strconv.Itoa(len(data))},
			"nonce": {wire.Base64url(nonce)},
		},
		body: body, size: wire.SealedSize(int64(len(data))), success: []int{http.StatusOK},
	}, tries)
	if err != nil {
		return nil, err
	}
	return w.openStatus(answer, nonce)
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
func (w *Writer) status(ctx context.Context, tries *attempts) (*wire.Status, error) {
	for {
		nonce := newNonce()
		answer, err := w.client.call(ctx, &request{
			method: http.MethodGet, path: w.live.url(""), token: w.live.token,
			query: url.Values{"nonce": {wire.Base64url(nonce)}}, success: []int{http.StatusOK},
		}, tries)
		if err == nil {
			return w.openStatus(answer, nonce)
		}
		if adviceOf(err) != problem.Retry {
			return nil, err
		}
		if err := tries.failed(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (w *Writer) openStatus(answer, nonce []byte) (*wire.Status, error) {
	sealed := &wire.Context{Op: wire.OpStatus, ID: w.live.id, Path: w.path, Nonce: nonce}
	plain, err := wire.OpenSealed(w.live.secret, sealed, answer, wire.StatusBytes)
	if err != nil {
		return nil, err
	}
	return wire.ParseStatus(plain)
}

// advance takes what a sealed status states, if it can be true. More than the last part is possible: an earlier, larger
// one may have arrived after its answer was given up.
func (w *Writer) advance(status *wire.Status, most int64) error {
	if status.State != "open" {
		return problem.New(problem.Code("transfer_"+status.State),
			wire.Shown(w.path)+": the owner says that the transfer is "+status.State)
	}
	if status.Received < w.durable || status.Received > most {
		return &problem.Error{
			Code: problem.Integrity, Cause: problem.UploadLost,
			Message: fmt.Sprintf("%s: the owner holds %d bytes, which cannot be: between %d and %d were sent",
				wire.Shown(w.path), status.Received, w.durable, most),
			Remedy: "was the owner's state or results folder restored from a backup? write the result anew",
		}
	}
	w.durable = status.Received
	return nil
}

// openAnew: the transfer ended before the owner held anything, and another one serves as well.
func (w *Writer) openAnew(ctx context.Context, tries *attempts, err error) error {
	if err := tries.reopen(ctx, err); err != nil {
		return err
	}
	t, err := w.client.open(ctx, w.wanted)
	if err != nil {
		return err
	}
	if t.size < w.most {
		w.client.end(t)
		return problem.New(problem.TooLarge, wire.Shown(w.path)+": the owner allows fewer bytes than before")
	}
	w.live = t
	return nil
}

// Commit publishes what was written and gives the owner's signed receipt; again, it gives the same one. Where writing
// failed before, it fails and nothing is published.
//
// Where a commit was sent and never answered, the code is CommitUnknown: the result may be published or not, and only
// the owner can tell.
func (w *Writer) Commit(ctx context.Context) (*Receipt, error) {
	if w.receipt != nil {
		return w.receipt, nil
	}
	if w.state != writerOpen {
		return nil, problem.New(problem.Misuse, wire.Shown(w.path)+" was given up; nothing is published")
	}
	receipt, sent, err := w.publish(ctx)
	if err == nil {
		w.state, w.receipt, w.pending = writerCommitted, receipt, nil
		return receipt, nil
	}
	if sent {
		w.state, w.pending = writerAborted, nil // no DELETE: the commit may have arrived
		return nil, &problem.Error{
			Code: problem.CommitUnknown, Cause: err,
			Message: wire.Shown(w.path) + ": the commit was sent and not answered, so the result may be published or not: " + err.Error(),
			Remedy:  "ask the owner (`clf server results`) before writing it again",
		}
	}
	w.Abort()
	return nil, err
}

// publish sends what is left, and the commit until it is answered. sent says that an answer to a commit was lost, and no
// later one settled what became of it.
func (w *Writer) publish(ctx context.Context) (receipt *Receipt, sent bool, err error) {
	if w.failed != nil {
		return nil, false, w.failed
	}
	inputs, err := inputs(w.chosen)
	if err != nil {
		return nil, false, err
	}
	if len(w.pending) > 0 {
		if err := w.upload(ctx, w.pending); err != nil {
			return nil, false, err
		}
	}
	commit := &wire.Commit{Size: w.written, SHA256: hex.EncodeToString(w.hash.Sum(nil)), Inputs: inputs}
	document := commit.Encode()
	tries := w.client.attempts()
	for {
		if ctx.Err() != nil {
			return nil, sent, cancelled(ctx)
		}
		answer, nonce, err := w.post(ctx, document, tries)
		if err == nil {
			receipt, err := w.openReceipt(answer, nonce, commit, document)
			return receipt, false, err
		}
		var wasCut *cut
		lost := errors.As(err, &wasCut) || problem.CodeOf(err) == problem.Cancelled
		if lost {
			sent = true
		}
		switch advice := adviceOf(err); {
		case advice == problem.Attest && w.durable == 0 && !sent:
			err = w.openAnew(ctx, tries, err)
		case advice == problem.Retry || advice == problem.Status:
			err = tries.failed(ctx, err)
		}
		if err != nil {
			// A refusal is the answer of whoever is there now; what became of an earlier, lost one stays unknown only
			// where nobody answers any more.
			code := problem.CodeOf(err)
			return nil, sent && (code == problem.Unreachable || code == problem.Cancelled), err
		}
	}
}

func (w *Writer) post(ctx context.Context, document []byte, tries *attempts) (answer, nonce []byte, err error) {
	nonce = newNonce()
	context := &wire.Context{Op: wire.OpCommit, ID: w.live.id, Path: w.path, Nonce: nonce}
	sealer, err := wire.NewSealer(w.live.secret, context, document)
	if err != nil {
		return nil, nil, err
	}
	answer, err = w.client.call(ctx, &request{
		method: http.MethodPost, path: w.live.url("/commit"), token: w.live.token, content: typeSealed,
		query: url.Values{"nonce": {wire.Base64url(nonce)}},
		body:  sealer, size: wire.SealedSize(int64(len(document))), success: []int{http.StatusOK},
	}, tries)
	return answer, nonce, err
}

func (w *Writer) openReceipt(answer, nonce []byte, commit *wire.Commit, document []byte) (*Receipt, error) {
	sealed := &wire.Context{Op: wire.OpReceipt, ID: w.live.id, Path: w.path, Nonce: nonce}
	token, err := wire.OpenSealed(w.live.secret, sealed, answer, wire.GrantBytes)
	if err != nil {
		return nil, err
	}
	return wire.OpenReceipt(string(token), w.live.request, w.path, commit, document, w.live.identity)
}

// Abort gives the result up; nothing is published. It never fails, and does nothing after a commit.
func (w *Writer) Abort() {
	if w.state != writerOpen {
		return
	}
	w.state, w.pending = writerAborted, nil
	w.client.endNow(w.live)
}

// Close gives the result up where it was neither committed nor aborted, and then says so with NotCommitted: whoever
// closes usually believes that the result has arrived. After Commit or Abort it does nothing, so that it can be
// deferred.
func (w *Writer) Close() error {
	if w.state != writerOpen {
		return nil
	}
	w.Abort()
	return &problem.Error{
		Code: problem.NotCommitted, Cause: w.failed,
		Message: wire.Shown(w.path) + " was closed without a commit: nothing is published", Remedy: "call Commit",
	}
}
