// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"sync/atomic"

	"github.com/cross-language-framework/clf-go/internal/wire"
)

// stretch is the rest of a file on its way, over one request for as long as nothing cuts it: a goroutine fetches and
// verifies what the next calls of Read will want, at most aheadPieces pieces of it.
type stretch struct {
	next   int64 // where in the file the next byte of Read belongs
	piece  []byte
	used   []byte      // what piece is the rest of
	pieces chan []byte // closed at the end
	spare  chan []byte
	err    error // why it ended, once pieces is closed
	stop   context.CancelFunc
}

// room counts stretches: each takes one of the owner's places for bodies, also while the program is busy elsewhere.
type room struct{ taken atomic.Int32 }

func (r *room) take() bool {
	if r.taken.Add(1) <= stretchesMost {
		return true
	}
	r.taken.Add(-1)
	return false
}

func (r *room) give() { r.taken.Add(-1) }

// newStretch begins; a place must have been taken, which is given back at the end.
func newStretch(ctx context.Context, l *lease, v version, r wire.Range) *stretch {
	ctx, stop := context.WithCancel(ctx)
	s := &stretch{
		next: r.Offset, stop: stop,
		pieces: make(chan []byte, aheadPieces), spare: make(chan []byte, aheadPieces+2),
	}
	go func() {
		defer l.client.room.give()
		defer close(s.pieces)
		s.err = s.fetch(ctx, l, v, r)
	}()
	return s
}

func (s *stretch) fetch(ctx context.Context, l *lease, v version, r wire.Range) error {
	gathered := make([]byte, 0, pieceBytes)
	flush := func() error {
		select {
		case s.pieces <- gathered:
		case <-ctx.Done():
			return cancelled(ctx)
		}
		select {
		case gathered = <-s.spare:
		default:
			gathered = make([]byte, 0, pieceBytes)
		}
		return nil
	}
	room := func() []byte { return gathered[len(gathered) : len(gathered)+wire.ChunkBytes] }
	err := l.downloadTo(ctx, v, r, room, func(chunk []byte) error {
		if into := room(); &into[0] != &chunk[0] {
			copy(into, chunk)
		}
		gathered = gathered[:len(gathered)+len(chunk)]
		if len(gathered)+wire.ChunkBytes > pieceBytes {
			return flush()
		}
		return nil
	})
	if len(gathered) > 0 {
		// What was verified before an error is the caller's.
		if failed := flush(); err == nil {
			err = failed
		}
	}
	return err
}

// read gives verified bytes, at least one, or why there are none; it is for one goroutine.
func (s *stretch) read(p []byte) (int, error) {
	if len(s.piece) == 0 {
		if s.used != nil {
			s.spare <- s.used[:0] // there are never more pieces than it has room for
		}
		var ok bool
		if s.piece, ok = <-s.pieces; !ok {
			s.used = nil
			return 0, s.err
		}
		s.used = s.piece
	}
	n := copy(p, s.piece)
	s.piece = s.piece[n:]
	s.next += int64(n)
	return n, nil
}
