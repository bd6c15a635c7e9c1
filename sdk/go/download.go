// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// version is one version of one file.
type version struct {
	path, etag string
	size       int64
}

// listing says that a manifest is asked for, and not a file by its index.
const listing = -1

// fetch is one request for a range, whose verified chunks go to deliver in order. What was delivered before an error is
// authentic and stays.
func (c *client) fetch(ctx context.Context, t *transfer, index int, v version, r wire.Range, tries *attempts, room func() []byte, deliver func([]byte) error) error {
	nonce := newNonce()
	sealed := &wire.Context{
		Op: wire.OpDown, ID: t.id, Path: v.path, Etag: v.etag, Offset: r.Offset, Length: r.Length, Nonce: nonce,
	}
	query := url.Values{
		"offset": {strconv.FormatInt(r.Offset, 10)}, "length": {strconv.FormatInt(r.Length, 10)},
		"nonce": {wire.Base64url(nonce)},
	}
	where := "/content"
	if index == listing {
		sealed.Op, where = wire.OpList, "/manifest"
	} else {
		query.Set("index", strconv.Itoa(index))
	}
	answer, done, err := c.send(ctx, &request{
		method: http.MethodGet, path: t.url(where), query: query, token: t.token, success: []int{http.StatusOK},
	}, tries)
	if err != nil {
		return err
	}
	defer done()
	if answer.ContentLength > wire.SealedSize(r.Length) {
		return problem.New(problem.Integrity, "the answer is longer than what was asked for")
	}
	err = wire.OpenStreamTo(answer.Body, t.secret, sealed, r.Length, room, deliver)
	if errors.Is(err, problem.Truncated) {
		return &cut{"the answer ended too early", err}
	}
	return err
}

// lease is a read transfer that is opened anew when it ended, for the same versions only. One goroutine opens it, and
// those that wait meanwhile share what comes of it: where nobody can be reached, all of them know after one timeout, not
// one after the other.
type lease struct {
	client   *client
	lock     chan struct{} // a mutex that a context can end waiting for
	live     *transfer
	closed   bool
	failures atomic.Int64 // openings that failed
	failure  error        // of the last one

	reopen func(context.Context) (*transfer, error)
	index  func(version) (int, bool)
}

func newLease(c *client) *lease { return &lease{client: c, lock: make(chan struct{}, 1)} }

func (l *lease) acquire(ctx context.Context) error {
	select {
	case l.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return cancelled(ctx)
	}
}

func (l *lease) release() { <-l.lock }

// transfer gives a live one; another goroutine may have opened it meanwhile.
func (l *lease) transfer(ctx context.Context) (*transfer, error) {
	failures := l.failures.Load()
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	defer l.release()
	return l.current(ctx, failures)
}

// current is called with the lock; failures is their number before this goroutine waited for it.
func (l *lease) current(ctx context.Context, failures int64) (*transfer, error) {
	if l.closed {
		return nil, problem.New(problem.Misuse, "the transfer was closed here")
	}
	if l.live != nil && !l.live.ended.Load() {
		return l.live, nil
	}
	if l.failures.Load() != failures {
		return nil, l.failure
	}
	t, err := l.reopen(ctx)
	if err == nil {
		l.live = t
	} else if ctx.Err() == nil { // who gave up speaks for nobody else
		l.failure = err
		l.failures.Add(1)
	}
	return t, err
}

// locate gives a live transfer and the file's index in it.
func (l *lease) locate(ctx context.Context, v version) (*transfer, int, error) {
	failures := l.failures.Load()
	if err := l.acquire(ctx); err != nil {
		return nil, 0, err
	}
	defer l.release()
	t, err := l.current(ctx, failures)
	if err != nil {
		return nil, 0, err
	}
	index, ok := l.index(v)
	if !ok {
		return nil, 0, otherVersion(v.path)
	}
	return t, index, nil
}

func (l *lease) close() {
	l.lock <- struct{}{}
	defer l.release()
	if l.live != nil && !l.live.ended.Load() {
		l.client.end(l.live)
	}
	l.live, l.closed = nil, true
}

// download delivers the range of a file, whatever it takes within the operation's patience. It goes on at the last
// verified byte; altered bytes end it at once. An error of deliver ends it, too.
func (l *lease) download(ctx context.Context, v version, r wire.Range, deliver func([]byte) error) error {
	return l.downloadTo(ctx, v, r, nil, deliver)
}

// downloadTo is download with chunks opened in place: see wire.OpenStreamTo.
func (l *lease) downloadTo(ctx context.Context, v version, r wire.Range, room func() []byte, deliver func([]byte) error) error {
	tries := l.client.attempts()
	for r.Length > 0 {
		t, index, err := l.locate(ctx, v)
		if err != nil {
			return err
		}
		var refused error
		err = l.client.fetch(ctx, t, index, v, r, tries, room, func(chunk []byte) error {
			if refused = deliver(chunk); refused != nil {
				return refused
			}
			r.Offset += int64(len(chunk))
			r.Length -= int64(len(chunk))
			tries.progress()
			return nil
		})
		if err == nil || refused != nil {
			return err
		}
		switch adviceOf(err) {
		case problem.Attest:
			t.ended.Store(true) // another goroutine may have opened the next one already
			err = tries.reopen(ctx, err)
		case problem.Retry:
			err = tries.failed(ctx, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// openFile opens one file, or a range of it.
func (c *client) openFile(ctx context.Context, path string, part *wire.Range) (*lease, version, *int64, error) {
	l := newLease(c)
	wanted := wire.Request{Action: wire.ActionRead, Path: path, Range: part}
	var known version
	open := func(ctx context.Context) (*transfer, error) {
		if err := wire.CheckFile(path); err != nil {
			return nil, err
		}
		wanted.IfMatch = known.etag
		t, err := c.open(ctx, wanted)
		if err == nil && known.etag != "" && t.size != known.size {
			return nil, otherVersion(path)
		}
		return t, err
	}
	t, err := open(ctx)
	if err != nil {
		return nil, version{}, nil, err
	}
	known = version{path, t.etag, t.size}
	l.live, l.reopen = t, open
	l.index = func(version) (int, bool) { return 0, true }
	return l, known, t.modified, nil
}

// openFolder opens everything below a folder with one attestation.
func (c *client) openFolder(ctx context.Context, folder string) (*lease, []Entry, error) {
	l := newLease(c)
	indexes := map[version]int{}
	open := func(ctx context.Context) (*transfer, []Entry, error) {
		t, entries, err := c.openManifest(ctx, wire.ActionRead, folder)
		if err != nil {
			return nil, nil, err
		}
		clear(indexes)
		for i, e := range entries {
			indexes[version{e.Path, e.Etag, e.Size}] = i
		}
		return t, entries, nil
	}
	t, entries, err := open(ctx)
	if err != nil {
		return nil, nil, err
	}
	l.live = t
	// What the caller was shown stays; files that changed since are refused one by one, by their index.
	l.reopen = func(ctx context.Context) (*transfer, error) {
		t, _, err := open(ctx)
		return t, err
	}
	l.index = func(v version) (int, bool) {
		i, ok := indexes[v]
		return i, ok
	}
	return l, entries, nil
}

// openManifest opens a transfer of a folder and reads its manifest to the end.
func (c *client) openManifest(ctx context.Context, action, folder string) (*transfer, []Entry, error) {
	tries := c.attempts()
	for again := 0; ; again++ {
		t, err := c.open(ctx, wire.Request{Action: action, Path: folder})
		if err != nil {
			return nil, nil, err
		}
		data, err := c.manifest(ctx, t, tries)
		if err == nil {
			entries, err := wire.ParseManifest(data, folder)
			if err != nil {
				c.end(t)
			}
			return t, entries, err
		}
		if adviceOf(err) != problem.Attest {
			c.end(t)
			return nil, nil, err
		}
		if again >= reopenMost { // each begins at the first byte: what is verified again is no progress
			return nil, nil, err
		}
		if err := tries.failed(ctx, err); err != nil {
			return nil, nil, err
		}
	}
}

func (c *client) manifest(ctx context.Context, t *transfer, tries *attempts) ([]byte, error) {
	v := version{t.path, t.etag, t.size}
	data := make([]byte, 0, t.size) // at most wire.ManifestBytes, see wire.OpenGrant
	for int64(len(data)) < t.size {
		rest := wire.Range{Offset: int64(len(data)), Length: t.size - int64(len(data))}
		err := c.fetch(ctx, t, listing, v, rest, tries, nil, func(chunk []byte) error {
			data = append(data, chunk...)
			tries.progress()
			return nil
		})
		if err == nil {
			break
		}
		if adviceOf(err) != problem.Retry {
			return nil, err
		}
		if err := tries.failed(ctx, err); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func otherVersion(path string) error {
	return &problem.Error{
		Code: problem.VersionMismatch, Message: fmt.Sprintf("%s changed since it was first read", wire.Shown(path)),
		Remedy: "start the computation anew; versions are never mixed",
	}
}
