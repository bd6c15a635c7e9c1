// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"io"
	"sync"

	"github.com/cross-language-framework/clf-go/problem"
)

// Sizes of a sealed body in bytes (c2sp.org/chunked-encryption, Cobblestone-256).
const (
	SecretBytes      = 32
	ChunkBytes       = 16 * 1024
	SealedChunkBytes = ChunkBytes + gcmTagBytes
	HeaderBytes      = saltBytes + commitmentBytes

	saltBytes       = 24
	commitmentBytes = 32
)

// The operations that bodies are sealed for.
const (
	OpDown    = "down"
	OpUp      = "up"
	OpList    = "list"
	OpStatus  = "status"
	OpCommit  = "commit"
	OpReceipt = "receipt"
)

// Context is what a sealed body is bound to (section 13.2).
type Context struct {
	Op, ID, Path, Etag string
	Offset, Length     int64
	Nonce              []byte
}

// Encode gives the 44 bytes that go into the key derivation.
func (c *Context) Encode() []byte {
	input := appendPrefixed(nil, c.Op)
	input = appendPrefixed(input, c.ID)
	input = appendPrefixed(input, c.Path)
	input = appendPrefixed(input, c.Etag)
	input = binary.BigEndian.AppendUint64(input, uint64(c.Offset))
	input = binary.BigEndian.AppendUint64(input, uint64(c.Length))
	input = appendPrefixed(input, c.Nonce)
	digest := sha256.Sum256(input)
	return append([]byte("clf-body-v1\x00"), digest[:]...)
}

// SealedSize is the length of the message of so many plain bytes: every message ends in a chunk shorter than 16 KiB.
func SealedSize(plain int64) int64 {
	return HeaderBytes + plain + gcmTagBytes*(plain/ChunkBytes+1)
}

// chunks has the keys of one message and counts its chunks.
type chunks struct {
	aead       cipher.AEAD
	base       [gcmNonceBytes]byte
	commitment []byte
	index      uint64
}

func newChunks(secret, salt []byte, context *Context) (*chunks, error) {
	info := "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + string(salt) + string(context.Encode())
	okm, err := hkdf.Expand(sha512.New, secret, info, 32+gcmNonceBytes+commitmentBytes)
	if err != nil {
		return nil, problem.New(problem.Misuse, "the keys of a sealed body cannot be derived")
	}
	c := &chunks{commitment: okm[32+gcmNonceBytes:]}
	copy(c.base[:], okm[32:])
	c.aead, err = newGCM(okm[:32])
	return c, err
}

// nonce of the next chunk: the base nonce XOR the chunk's index as a 96-bit big-endian integer.
func (c *chunks) nonce() []byte {
	nonce := c.base
	tail := nonce[gcmNonceBytes-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^c.index)
	c.index++
	return nonce[:]
}

// Opener opens one message of a known number of plain bytes, chunk after chunk. After a failure it opens nothing more.
type Opener struct {
	chunks *chunks
	left   int64 // plain bytes that have not been opened
	ended  bool
}

// NewOpener compares the commitment in the header, before anything is opened: another secret or context fails here.
func NewOpener(secret []byte, context *Context, plain int64, header []byte) (*Opener, error) {
	c, err := newChunks(secret, header[:saltBytes], context)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(c.commitment, header[saltBytes:HeaderBytes]) != 1 {
		return nil, altered()
	}
	return &Opener{chunks: c, left: plain}, nil
}

// Next is how many sealed bytes the next chunk has, and whether it is the last one; 0 after the end.
func (o *Opener) Next() (size int, last bool) {
	switch {
	case o.ended:
		return 0, true
	case o.left >= ChunkBytes:
		return SealedChunkBytes, false
	default:
		return int(o.left) + gcmTagBytes, true
	}
}

// Open appends the plain bytes of the next chunk, of the size that Next said, to out.
func (o *Opener) Open(out, chunk []byte) ([]byte, error) {
	size, last := o.Next()
	if o.ended || len(chunk) != size {
		o.ended = true
		return nil, altered()
	}
	plain, err := o.chunks.aead.Open(out, o.chunks.nonce(), chunk, nil)
	if err != nil {
		o.ended = true
		return nil, altered()
	}
	o.left -= int64(size - gcmTagBytes)
	o.ended = last
	return plain, nil
}

func altered() error {
	return problem.New(problem.Integrity, "sealed body: altered, or made for another request")
}

// OpenStream reads a message of exactly so many plain bytes and hands each verified chunk to deliver, in order. What
// completes the message is kept back until its last, short chunk is verified and nothing follows it. A chunk is valid
// during the call only. Where the reader fails its error is returned; where it ends too early, Truncated.
func OpenStream(r io.Reader, secret []byte, context *Context, plain int64, deliver func([]byte) error) error {
	return OpenStreamTo(r, secret, context, plain, nil, deliver)
}

// OpenStreamTo is OpenStream that opens chunks where they are wanted: room gives ChunkBytes bytes for the next one, which
// deliver is then given as it is, or copied where it had to be kept back. Before that, room's bytes are not to be shown.
func OpenStreamTo(r io.Reader, secret []byte, context *Context, plain int64, room func() []byte, deliver func([]byte) error) error {
	var header [HeaderBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return tooEarly(err)
	}
	o, err := NewOpener(secret, context, plain, header[:])
	if err != nil {
		return err
	}
	pooled, _ := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(pooled)
	in := window{reader: r, buffer: pooled[:]}
	var held []byte
	for {
		size, last := o.Next()
		if last {
			break
		}
		if err := in.fill(size, SealedSize(o.left)-HeaderBytes); err != nil {
			return err
		}
		out := in.buffer[in.low:in.low]
		if room != nil {
			out = room()[:0]
		}
		chunk, err := o.Open(out, in.buffer[in.low:in.low+size])
		if err != nil {
			return err
		}
		in.low += size
		if o.left == 0 {
			held = append(held, chunk...)
		} else if err := deliver(chunk); err != nil {
			return err
		}
	}
	size, _ := o.Next()
	if err := in.finish(size); err != nil {
		return err
	}
	chunk, err := o.Open(in.buffer[in.low:in.low], in.buffer[in.low:in.low+size])
	if err != nil {
		return err
	}
	for _, rest := range [][]byte{held, chunk} {
		if len(rest) > 0 {
			if err := deliver(rest); err != nil {
				return err
			}
		}
	}
	return nil
}

// bufferBytes takes sixteen chunks at once, and one byte more, whose absence is how the end is known.
const bufferBytes = 16*SealedChunkBytes + 1

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// window is the stretch of sealed bytes that was read and not yet opened.
type window struct {
	reader    io.Reader
	buffer    []byte
	low, high int
	end       error // why nothing more comes
}

// fill reads until so many bytes are there, and never more than one byte beyond the message.
func (w *window) fill(size int, rest int64) error {
	if w.low+size > len(w.buffer) || w.low == w.high {
		w.high = copy(w.buffer, w.buffer[w.low:w.high])
		w.low = 0
	}
	most := int(min(int64(len(w.buffer)), int64(w.low)+rest+1))
	for w.end == nil && w.high-w.low < size {
		var n int
		n, w.end = w.reader.Read(w.buffer[w.high:most])
		w.high += n
	}
	if w.high-w.low < size {
		return tooEarly(w.end)
	}
	return nil
}

// finish reads the last chunk, of so many bytes, and sees that nothing follows it.
func (w *window) finish(size int) error {
	if err := w.fill(size+1, int64(size)); err == nil {
		return altered()
	}
	if w.high-w.low < size || w.end != io.EOF {
		return tooEarly(w.end)
	}
	return nil
}

func tooEarly(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return problem.New(problem.Truncated, "sealed body: ends too early")
	}
	return err
}

// OpenSealed opens a small message of a length that is not known: at most so many plain bytes.
func OpenSealed(secret []byte, context *Context, sealed []byte, most int) ([]byte, error) {
	if int64(len(sealed)) > SealedSize(int64(most)) {
		return nil, problem.New(problem.Integrity, "sealed body: longer than what was asked for")
	}
	// The one length whose message has this size: whole chunks, and what is left beside the last chunk's tag.
	body := int64(len(sealed)) - HeaderBytes
	last := body % SealedChunkBytes
	if body < gcmTagBytes || last < gcmTagBytes {
		return nil, problem.New(problem.Truncated, "sealed body: ends too early")
	}
	plain := make([]byte, 0, body)
	length := body/SealedChunkBytes*ChunkBytes + last - gcmTagBytes
	err := OpenStream(bytes.NewReader(sealed), secret, context, length, func(chunk []byte) error {
		plain = append(plain, chunk...)
		return nil
	})
	return plain, err
}

// Sealer is a reader of the message of some plaintext, which must not change before it is read to its end.
type Sealer struct {
	chunks *chunks
	plain  []byte
	ready  []byte // sealed, not yet read
	room   []byte
	ended  bool
}

// NewSealer begins a message with a new salt.
func NewSealer(secret []byte, context *Context, plain []byte) (*Sealer, error) {
	header := make([]byte, saltBytes, HeaderBytes)
	if _, err := rand.Read(header); err != nil {
		return nil, err
	}
	c, err := newChunks(secret, header, context)
	if err != nil {
		return nil, err
	}
	room := make([]byte, 0, min(SealedSize(int64(len(plain))), 8*SealedChunkBytes))
	return &Sealer{chunks: c, plain: plain, ready: append(header, c.commitment...), room: room}, nil
}

// Read gives sealed bytes.
func (s *Sealer) Read(p []byte) (int, error) {
	if len(s.ready) == 0 {
		if s.ended {
			return 0, io.EOF
		}
		s.ready = s.room[:0]
		for !s.ended && len(s.ready)+SealedChunkBytes <= max(cap(s.room), SealedChunkBytes) {
			size := min(len(s.plain), ChunkBytes)
			s.ready = s.chunks.aead.Seal(s.ready, s.chunks.nonce(), s.plain[:size], nil)
			s.plain = s.plain[size:]
			s.ended = size < ChunkBytes
		}
	}
	n := copy(p, s.ready)
	s.ready = s.ready[n:]
	return n, nil
}

// Seal gives the message of a small plaintext.
func Seal(secret []byte, context *Context, plain []byte) ([]byte, error) {
	s, err := NewSealer(secret, context, plain)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(s)
}
