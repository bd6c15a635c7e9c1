// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cross-language-framework/clf-go/problem"
)

var (
	secret  = bytes.Repeat([]byte{7}, SecretBytes)
	context = &Context{Op: OpDown, ID: "id", Path: "a", Etag: "v", Nonce: make([]byte, NonceBytes)}
)

func plaintext(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	return data
}

func open(r io.Reader, size int) ([]byte, error) {
	var plain []byte
	err := OpenStream(r, secret, context, int64(size), func(chunk []byte) error {
		plain = append(plain, chunk...)
		return nil
	})
	return plain, err
}

// Chunks are opened where they are wanted, at the edges of chunks too, and an altered one leaves nothing there.
func TestChunksAreOpenedInTheirRoom(t *testing.T) {
	for _, size := range []int{0, 1, ChunkBytes, ChunkBytes + 1, 20*ChunkBytes + 5} {
		sealed, err := Seal(secret, context, plaintext(size))
		if err != nil {
			t.Fatal(err)
		}
		var plain []byte
		into := make([]byte, ChunkBytes)
		room := func() []byte {
			clear(into)
			return into
		}
		err = OpenStreamTo(bytes.NewReader(sealed), secret, context, int64(size), room, func(chunk []byte) error {
			if len(chunk) == ChunkBytes && len(plain)+len(chunk) < size && &chunk[0] != &into[0] {
				t.Errorf("%d: a chunk at %d was opened elsewhere", size, len(plain))
			}
			plain = append(plain, chunk...)
			return nil
		})
		if err != nil || !bytes.Equal(plain, plaintext(size)) {
			t.Errorf("%d: %v", size, err)
		}
		if size < ChunkBytes {
			continue
		}
		sealed[HeaderBytes+ChunkBytes/2] ^= 1
		err = OpenStreamTo(bytes.NewReader(sealed), secret, context, int64(size), room, func([]byte) error {
			t.Errorf("%d: an altered chunk was delivered", size)
			return nil
		})
		if err == nil || !bytes.Equal(into, make([]byte, ChunkBytes)) {
			t.Errorf("%d: %v, or plain bytes of an altered chunk", size, err)
		}
	}
}

// What is sealed opens again, at the edges of chunks, however the bytes arrive, and has the size that follows.
func TestSealedRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, ChunkBytes - 1, ChunkBytes, ChunkBytes + 1, 16*ChunkBytes - 1, 16 * ChunkBytes, 40*ChunkBytes + 5} {
		sealed, err := Seal(secret, context, plaintext(size))
		if err != nil || int64(len(sealed)) != SealedSize(int64(size)) {
			t.Fatalf("%d: %v", size, err)
		}
		readers := []io.Reader{
			bytes.NewReader(sealed), iotest.HalfReader(bytes.NewReader(sealed)), iotest.DataErrReader(bytes.NewReader(sealed)),
		}
		if size < 2*ChunkBytes {
			readers = append(readers, iotest.OneByteReader(bytes.NewReader(sealed)))
		}
		for _, r := range readers {
			if plain, err := open(r, size); err != nil || !bytes.Equal(plain, plaintext(size)) {
				t.Errorf("%d: %v", size, err)
			}
		}
		if plain, err := OpenSealed(secret, context, sealed, size); err != nil || !bytes.Equal(plain, plaintext(size)) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

// A message that is cut anywhere gives an authentic beginning, never its whole, and says that it was truncated.
func TestSealedCutAnywhere(t *testing.T) {
	for _, size := range []int{2 * ChunkBytes, 2*ChunkBytes + 9} {
		sealed, _ := Seal(secret, context, plaintext(size))
		for cut := 0; cut < len(sealed); cut += 997 {
			plain, err := open(bytes.NewReader(sealed[:cut]), size)
			if !errors.Is(err, problem.Truncated) || len(plain) >= size || !bytes.HasPrefix(plaintext(size), plain) {
				t.Fatalf("cut at %d of %d: %d bytes, %v", cut, len(sealed), len(plain), err)
			}
		}
		if plain, err := open(bytes.NewReader(sealed[:len(sealed)-1]), size); !errors.Is(err, problem.Truncated) || len(plain) >= size {
			t.Errorf("without its last byte: %d bytes, %v", len(plain), err)
		}
	}
}

// A changed byte is noticed wherever it is, and nothing of its chunk is handed out; a reader's own error is kept.
func TestSealedAltered(t *testing.T) {
	size := ChunkBytes + 100
	sealed, _ := Seal(secret, context, plaintext(size))
	for at := 0; at < len(sealed); at += 61 {
		altered := bytes.Clone(sealed)
		altered[at] ^= 1
		plain, err := open(bytes.NewReader(altered), size)
		most := 0
		if at >= HeaderBytes+SealedChunkBytes {
			most = ChunkBytes
		}
		if !errors.Is(err, problem.Integrity) || len(plain) > most {
			t.Fatalf("byte %d: %d bytes, %v", at, len(plain), err)
		}
	}
	broken := errors.New("broken")
	if _, err := open(io.MultiReader(bytes.NewReader(sealed[:100]), iotest.ErrReader(broken)), size); err != broken {
		t.Error(err)
	}
	if _, err := open(bytes.NewReader(append(bytes.Clone(sealed), 0)), size); !errors.Is(err, problem.Integrity) {
		t.Error("a byte follows the end", err)
	}
}

// R holds names as they are, whatever JSON does to them, and says no more than its action needs.
func TestRequestNames(t *testing.T) {
	object, err := ParseObject([]byte(`{"crv":"P-256","kty":"EC","x":"IWqw6k7p3Meh7_scGCtv_ZvnuEcfU1r1DMP3l21m0lM","y":"b79yK8K4MoaUH3QXZRADZjnckZE_Ag7Dr5aY-RH9TXA"}`), "key", 500)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseJWK(object, "key")
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Audience: Base64url(make([]byte, 32)), Challenge: "c", Run: make([]byte, 16), Key: key, Action: ActionRead}
	for _, path := range []string{"a", "<&>'\"", "患者/ä.csv", "😀/a\u00a0b", "images/", "/"} {
		r.Path = path
		encoded, err := r.Encode()
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		if parsed, err := ParseRequest(encoded); err != nil || parsed.Path != path {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, path := range []string{"", "../a", "a\x00", "a\\b", "\xff", ".clf/x", "a//b", strings.Repeat("a", 256)} {
		r.Path = path
		if _, err := r.Encode(); !errors.Is(err, problem.Malformed) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// What a server says cannot move a terminal's cursor.
func TestReadable(t *testing.T) {
	if got := Readable("a\x1b[2Jb\n\u202e\xffä", 100); got != `a\x1b[2Jb\n\u202e\xffä` {
		t.Error(got)
	}
	if got := Readable(strings.Repeat("x", 100), 10); len(got) != 10 {
		t.Error(got)
	}
}

// Whatever bytes come, the parser ends, and takes nothing that the standard library refuses.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,{"b":null}]}`, `{"a":"\ud800\udc00\u12"}`, `{"a":-0}`, `{"":`, `{"a":1e5}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		object, err := ParseObject(data, "fuzz", 1000)
		if err != nil {
			return
		}
		var standard map[string]any
		if err := json.Unmarshal(data, &standard); err != nil || len(standard) != len(object) && !bytes.Contains(data, []byte(`\u`)) {
			t.Errorf("%q: %v", data, err)
		}
	})
}
