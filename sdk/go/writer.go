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
//
// A part is sent while the next one is written, so two of them are in memory, and a failure is that of the Write that
// fills the next part, or of Commit.
type Writer struct {
	ctx    context.Context
	cancel context.CancelFunc // of the part that is underway
	parts  parts
	path   string
	chosen []Input

	part    int        // bytes of a part; as parts.part when none is underway
	pending []byte     // the part that is gathered
	leaving []byte     // the one that is underway
	sent    chan error // what became of it; nil where none is underway
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
	wanted := wire.Request{Action: wire.ActionWrite, Path: path}
	if options.Size > 0 {
		size := options.Size // the caller may change it while a part is underway
		wanted.Size = &size
	}
	live, err := c.open(ctx, wanted)
	if err != nil {
		return nil, err
	}
	most := live.size
	if options.Size > 0 {
		most = min(most, options.Size)
	}
	w := &Writer{path: path, part: part, chosen: options.Inputs, hash: sha256.New()}
	w.parts = parts{client: c, wanted: wanted, live: live, path: path, most: most, part: part}
	w.ctx, w.cancel = context.WithCancel(ctx)
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

// Write adds bytes to the result, under the context that it was created with. After a failure, which may be that of an
// earlier part, it fails for good.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.admit(int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		rest := p[done:]
		rest = rest[:min(len(rest), w.part-len(w.pending))]
		w.take(rest)
		if need := len(w.pending) + len(rest); need > cap(w.pending) && need > wholePartBytes {
			w.pending = slices.Grow(w.pending, w.part-len(w.pending)) // not by a quarter each time
		}
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
	case w.written+count > w.parts.most:
		w.failed = &problem.Error{
			Code:    problem.TooLarge,
			Message: fmt.Sprintf("%s: more than the %d bytes that this transfer may have", wire.Shown(w.path), w.parts.most),
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

// sendFull lets a full part leave, once the one before it is there.
func (w *Writer) sendFull() error {
	if len(w.pending) < w.part {
		return nil
	}
	if err := w.settle(); err != nil {
		return err
	}
	w.pending, w.leaving = w.leaving[:0], w.pending
	sent := make(chan error, 1)
	go func() { sent <- w.parts.upload(w.ctx, w.leaving) }()
	w.sent = sent
	return nil
}

// settle waits for the part that is underway, and says what has failed so far.
func (w *Writer) settle() error {
	if w.sent != nil {
		err := <-w.sent
		w.sent, w.part = nil, w.parts.part
		if w.failed == nil {
			w.failed = err
		}
	}
	return w.failed
}

// Commit publishes what was written and gives the owner's signed receipt; again, it gives the same one. Where writing
// failed before, it fails and nothing is published.
//
// Where an answer to it was lost, and no refusal in the protocol's words came after that, the code is CommitUnknown: the
// result may be published or not, and only the owner can tell.
func (w *Writer) Commit(ctx context.Context) (*Receipt, error) {
	if w.receipt != nil {
		return w.receipt, nil
	}
	if w.state != writerOpen {
		return nil, problem.New(problem.Misuse, wire.Shown(w.path)+" was given up; nothing is published")
	}
	receipt, sent, err := w.publish(ctx)
	if err == nil {
		w.end(writerCommitted)
		w.receipt = receipt
		return receipt, nil
	}
	if sent {
		w.end(writerAborted) // no DELETE: the commit may have arrived
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
	stop := context.AfterFunc(ctx, w.cancel)
	defer stop()
	if err := w.settle(); err != nil {
		if ctx.Err() != nil {
			err = cancelled(ctx)
		}
		return nil, false, err
	}
	inputs, err := inputs(w.chosen)
	if err != nil {
		return nil, false, err
	}
	if len(w.pending) > 0 {
		if err := w.parts.upload(ctx, w.pending); err != nil {
			return nil, false, err
		}
	}
	commit := &wire.Commit{Size: w.written, SHA256: hex.EncodeToString(w.hash.Sum(nil)), Inputs: inputs}
	document := commit.Encode()
	tries := w.parts.client.attempts()
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
		switch code := problem.CodeOf(err); {
		case errors.As(err, &wasCut) || code == problem.Cancelled:
			sent = true
		case code == problem.UnexpectedAnswer && adviceOf(err) == problem.Retry:
			sent = true // whoever answers for a server, a proxy, may have passed it on
		}
		switch advice := adviceOf(err); {
		case advice == problem.Attest && w.parts.durable == 0 && !sent:
			err = w.parts.openAnew(ctx, tries, err)
		case advice == problem.Retry || advice == problem.Status:
			err = tries.failed(ctx, err)
		}
		if err != nil {
			// Only a refusal in the words of the protocol settles what became of a commit whose answer was lost.
			switch problem.CodeOf(err) {
			case problem.Unreachable, problem.Cancelled, problem.UnexpectedAnswer:
				return nil, sent, err
			}
			return nil, sent && adviceOf(err) != problem.Stop, err
		}
	}
}

func (w *Writer) post(ctx context.Context, document []byte, tries *attempts) (answer, nonce []byte, err error) {
	nonce = newNonce()
	live := w.parts.live
	context := &wire.Context{Op: wire.OpCommit, ID: live.id, Path: w.path, Nonce: nonce}
	sealer, err := wire.NewSealer(live.secret, context, document)
	if err != nil {
		return nil, nil, err
	}
	answer, err = w.parts.client.call(ctx, &request{
		method: http.MethodPost, path: live.url("/commit"), token: live.token, content: typeSealed,
		query: url.Values{"nonce": {wire.Base64url(nonce)}},
		body:  sealer, size: wire.SealedSize(int64(len(document))), success: []int{http.StatusOK},
	}, tries)
	return answer, nonce, err
}

func (w *Writer) openReceipt(answer, nonce []byte, commit *wire.Commit, document []byte) (*Receipt, error) {
	live := w.parts.live
	sealed := &wire.Context{Op: wire.OpReceipt, ID: live.id, Path: w.path, Nonce: nonce}
	token, err := wire.OpenSealed(live.secret, sealed, answer, wire.GrantBytes)
	if err != nil {
		return nil, err
	}
	return wire.OpenReceipt(string(token), live.request, w.path, commit, document, live.identity)
}

// Abort gives the result up; nothing is published. It never fails, and does nothing after a commit.
func (w *Writer) Abort() {
	if w.state != writerOpen {
		return
	}
	w.cancel()
	if w.sent != nil {
		<-w.sent // its context has ended
		w.sent = nil
	}
	w.end(writerAborted)
	w.parts.client.endNow(w.parts.live)
}

// end lets go of what is not needed any more.
func (w *Writer) end(state writerState) {
	w.cancel()
	w.state, w.pending, w.leaving = state, nil, nil
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
