// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// Reader is one version of one file, or of a range of it. Only bytes that were verified are ever handed out.
//
// It is an io.ReadSeekCloser, io.ReaderAt and io.WriterTo, for several goroutines at once; those that use the position
// share it. Small reads are served from windows that are read ahead: 64 KiB, and up to 8 MiB while reads follow each
// other, for four places of the file at once. Read, once it has read 1 MiB in order, and io.Copy get the rest of the file
// over one request, which is up to 1 MiB ahead of Read.
type Reader struct {
	ctx      context.Context
	lease    *lease
	owns     bool // whether the lease ends with the reader
	version  version
	start    int64
	size     int64
	modified *int64
	closed   atomic.Bool

	place    sync.Mutex // for position
	position int64
	inOrder  int64 // bytes that Read gave since the last Seek

	mutex   sync.Mutex // for the windows, and to end the stretch
	stretch *stretch
	windows [aheadWindows]*window
	oldest  int
}

// window is a stretch of verified bytes; it never changes.
type window struct {
	start int64
	data  []byte
	ahead int64 // how much was read ahead for it
}

var (
	_ io.ReadSeekCloser = (*Reader)(nil)
	_ io.ReaderAt       = (*Reader)(nil)
	_ io.WriterTo       = (*Reader)(nil)
)

// Path is the file's name at its owner.
func (r *Reader) Path() string { return r.version.path }

// Size is how many bytes can be read here, as the owner signed it.
func (r *Reader) Size() int64 { return r.size }

// Etag is the version, opaque.
func (r *Reader) Etag() string { return r.version.etag }

// Modified is when the file last changed; ok is false where the owner did not say.
func (r *Reader) Modified() (at time.Time, ok bool) {
	if r.modified == nil {
		return time.Time{}, false
	}
	return time.Unix(*r.modified, 0), true
}

// Input is how a result names what was read here.
func (r *Reader) Input() (Input, error) {
	t, err := r.lease.transfer(r.ctx)
	if err != nil {
		return Input{}, err
	}
	return t.input(), nil
}

// String names the file; it holds no secrets.
func (r *Reader) String() string {
	return fmt.Sprintf("clf.Reader(%s, %d bytes)", wire.Shown(r.Path()), r.size)
}

// Read reads on from the position, under the context that the file was opened with. It ends with io.EOF only where the
// file ends, which the owner has signed.
func (r *Reader) Read(p []byte) (int, error) {
	r.place.Lock()
	defer r.place.Unlock()
	if len(p) == 0 {
		return 0, r.usable()
	}
	n, err := r.readOn(p)
	r.position += int64(n)
	r.inOrder += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (r *Reader) readOn(p []byte) (int, error) {
	if s := r.onward(); s != nil {
		n, err := s.read(p)
		if n == 0 {
			r.endStretch()
			if closed := r.usable(); closed != nil {
				err = closed
			} else if err == nil {
				err = io.EOF
			}
		}
		return n, err
	}
	// What is at hand is enough for a Read; nobody waits for the rest of p.
	if n := r.atHand(p, r.position); n > 0 && !r.closed.Load() {
		return n, nil
	}
	return r.readAt(r.ctx, p, r.position)
}

// onward gives the stretch that goes on at the position, a new one where Read has been going on in order for long, nil
// where there is none.
func (r *Reader) onward() *stretch {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	at := r.start + r.position
	if r.stretch != nil && r.stretch.next != at {
		r.stretch.stop()
		r.stretch = nil
	}
	if r.stretch == nil && r.inOrder >= directBytes && r.position < r.size && !r.closed.Load() &&
		!r.covered(r.position) && r.lease.client.room.take() {
		r.stretch = newStretch(r.ctx, r.lease, r.version, wire.Range{Offset: at, Length: r.size - r.position})
	}
	return r.stretch
}

// endStretch: nothing more of it is wanted.
func (r *Reader) endStretch() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.stretch != nil {
		r.stretch.stop()
		r.stretch = nil
	}
}

// covered says whether a window has what is at the offset.
func (r *Reader) covered(offset int64) bool {
	for _, w := range r.windows {
		if w != nil && offset >= w.start && offset-w.start < int64(len(w.data)) {
			return true
		}
	}
	return false
}

// ReadAt fills p from the offset on, under the context that the file was opened with. It neither moves nor waits for
// other goroutines.
func (r *Reader) ReadAt(p []byte, offset int64) (int, error) { return r.readAt(r.ctx, p, offset) }

// ReadAtContext is ReadAt under another context.
func (r *Reader) ReadAtContext(ctx context.Context, p []byte, offset int64) (int, error) {
	return r.readAt(ctx, p, offset)
}

// Seek moves the position; beyond the end there is nothing to read.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	r.place.Lock()
	defer r.place.Unlock()
	if err := r.usable(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.position
	case io.SeekEnd:
		offset += r.size
	default:
		return 0, problem.New(problem.Misuse, fmt.Sprintf("whence %d is none of io.Seek...", whence))
	}
	if offset < 0 {
		return 0, problem.New(problem.Misuse, "the position lies before the file's start")
	}
	if offset != r.position {
		r.inOrder = 0
		r.endStretch()
	}
	r.position = offset
	return offset, nil
}

// WriteTo streams everything from the position on to w. io.Copy uses it.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	r.place.Lock()
	defer r.place.Unlock()
	if err := r.usable(); err != nil {
		return 0, err
	}
	r.endStretch()
	const piece = 256 * 1024
	gathered, written := make([]byte, 0, piece), int64(0)
	flush := func() error {
		n, err := w.Write(gathered)
		if err == nil && n < len(gathered) {
			err = io.ErrShortWrite
		}
		written += int64(n)
		gathered = gathered[:0]
		return err
	}
	rest := wire.Range{Offset: r.start + r.position, Length: max(r.size-r.position, 0)}
	var refused error
	err := r.lease.download(r.ctx, r.version, rest, func(chunk []byte) error {
		gathered = append(gathered, chunk...)
		if len(gathered)+wire.ChunkBytes > piece {
			refused = flush()
		}
		return refused
	})
	if refused == nil && len(gathered) > 0 {
		// What was verified before an error is the caller's.
		if failed := flush(); err == nil {
			err = failed
		}
	}
	r.position += written
	return written, err
}

// Close ends the transfer and forgets what was read ahead. It does not wait for the owner, and never fails.
func (r *Reader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.mutex.Lock()
	r.windows = [aheadWindows]*window{}
	r.mutex.Unlock()
	r.endStretch()
	if r.owns {
		r.lease.close()
	}
	return nil
}

func (r *Reader) usable() error {
	if r.closed.Load() {
		return problem.New(problem.Misuse, wire.Shown(r.Path())+" is closed")
	}
	return nil
}

func (r *Reader) readAt(ctx context.Context, p []byte, offset int64) (int, error) {
	if err := r.usable(); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, problem.New(problem.Misuse, "the offset lies before the file's start")
	}
	want := p[:max(min(int64(len(p)), r.size-offset), 0)]
	done := 0
	for done < len(want) {
		rest, at := want[done:], offset+int64(done)
		n := r.atHand(rest, at)
		var err error
		switch {
		case n > 0:
		case len(rest) >= directBytes:
			n, err = r.direct(ctx, rest, at)
		default:
			n, err = r.fill(ctx, rest, at)
		}
		done += n
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// atHand copies what a window has.
func (r *Reader) atHand(p []byte, offset int64) int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, w := range r.windows {
		if w != nil && offset >= w.start && offset-w.start < int64(len(w.data)) {
			return copy(p, w.data[offset-w.start:])
		}
	}
	return 0
}

// direct reads into p, without read-ahead.
func (r *Reader) direct(ctx context.Context, p []byte, offset int64) (int, error) {
	done := 0
	wanted := wire.Range{Offset: r.start + offset, Length: int64(len(p))}
	err := r.lease.download(ctx, r.version, wanted, func(chunk []byte) error {
		done += copy(p[done:], chunk)
		return nil
	})
	return done, err
}

// fill reads a new window from the offset on, and copies what p takes of it. A window that follows another one takes
// its place and is twice as large.
func (r *Reader) fill(ctx context.Context, p []byte, offset int64) (int, error) {
	ahead, place := int64(aheadFirst), -1
	r.mutex.Lock()
	for i, w := range r.windows {
		if w != nil && w.start+int64(len(w.data)) == offset {
			ahead, place = min(w.ahead*2, aheadMost), i
		}
	}
	r.mutex.Unlock()
	size := min(max(ahead, int64(len(p))), r.size-offset)
	w := &window{start: offset, data: make([]byte, size), ahead: ahead}
	if n, err := r.direct(ctx, w.data, offset); err != nil {
		return copy(p, w.data[:n]), err
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if place < 0 {
		place = r.oldest
		r.oldest = (r.oldest + 1) % aheadWindows
	}
	if !r.closed.Load() {
		r.windows[place] = w
	}
	return copy(p, w.data), nil
}

// readAll gives the whole content. Room is made as verified bytes arrive, because a size may be a lie.
func (r *Reader) readAll() ([]byte, error) {
	var buffer bytes.Buffer
	buffer.Grow(int(min(r.size, wholeFirst)))
	wanted := wire.Range{Offset: r.start, Length: r.size}
	err := r.lease.download(r.ctx, r.version, wanted, func(chunk []byte) error {
		_, err := buffer.Write(chunk)
		return err
	})
	if err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}
