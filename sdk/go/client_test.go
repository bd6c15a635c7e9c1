// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	"github.com/cross-language-framework/clf-go/problem"
)

const (
	long  = 60 * time.Second
	short = 300 * time.Millisecond // for what never gets anywhere
)

// patience has more of it, should a machine that stands still take the first for itself.
var patience = []time.Duration{short, 10 * short, long}

// patiently wants a code of what a client's own patience is to end.
func patiently(t *testing.T, code problem.Code, timeouts []time.Duration, try func(time.Duration) error) {
	t.Helper()
	var err error
	for _, timeout := range timeouts {
		if err = try(timeout); problem.CodeOf(err) == code {
			return
		}
	}
	wantCode(t, err, code)
}

var ctx = context.Background()

// One attestation serves streams, ranges, small reads and goroutines; each gives the file's bytes.
func TestReading(t *testing.T) {
	f := newFakeOwner(t)
	data := random(t, 3*1024*1024+17)
	f.files["a.bin"], f.files["empty"] = data, nil
	owner := f.connect(long)
	r, err := owner.Open(ctx, "a.bin")
	if err != nil {
		t.Fatal(err)
	}
	var streamed bytes.Buffer
	if n, err := io.Copy(&streamed, r); err != nil || n != int64(len(data)) || !bytes.Equal(streamed.Bytes(), data) {
		t.Fatal(n, err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(struct{ io.Reader }{r}, data); err != nil {
		t.Error(err)
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			section := io.NewSectionReader(r, int64(i)*1000, 200_000)
			if got, err := io.ReadAll(section); err != nil || !bytes.Equal(got, data[i*1000:i*1000+200_000]) {
				t.Error(i, err)
			}
		})
	}
	group.Wait()
	end := make([]byte, 100)
	if n, err := r.ReadAt(end, int64(len(data))-40); n != 40 || err != io.EOF {
		t.Error(n, err)
	}
	if f.quotes != 1 {
		t.Errorf("%d attestations", f.quotes)
	}
	if at, ok := r.Modified(); !ok || at.Unix() != 1800000000 {
		t.Error(at, ok)
	}
	_ = r.Close()
	if _, err := r.Read(end); !errors.Is(err, problem.Misuse) {
		t.Error(err)
	}
	part, err := owner.OpenRange(ctx, "a.bin", 1000, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, data[1000:6000]) {
		t.Error(err)
	}
	if got, err := owner.ReadFile(ctx, "empty"); err != nil || len(got) != 0 {
		t.Error(err)
	}
	if key, err := owner.Key(ctx, "name"); err != nil || string(key) != "the key" {
		t.Error(err)
	}
	_, err = owner.OpenRange(ctx, "a.bin", 1000, int64(len(data)))
	wantCode(t, err, problem.Malformed)
	_, err = owner.Open(ctx, "missing")
	wantCode(t, err, problem.NoSuchFile)
}

// A folder is one attestation, and a file system as the standard library knows them.
func TestFolder(t *testing.T) {
	f := newFakeOwner(t)
	f.files = map[string][]byte{
		"in/a.txt": []byte("a"), "in/b/c.txt": random(t, 70_000), "in/b.txt": nil, "in/ü/x": []byte("x"), "out": []byte("no"),
	}
	owner := f.connect(long)
	folder, err := owner.OpenFolder(ctx, "in")
	if err != nil {
		t.Fatal(err)
	}
	tree := folder.FS()
	if err := fstest.TestFS(tree, "a.txt", "b/c.txt", "b.txt", "ü/x"); err != nil {
		t.Error(err)
	}
	if data, err := fs.ReadFile(tree, "b/c.txt"); err != nil || !bytes.Equal(data, f.files["in/b/c.txt"]) {
		t.Error(err)
	}
	if _, err := fs.Stat(tree, "out"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	_, err = folder.Open(ctx, "out")
	wantCode(t, err, problem.NoSuchFile)
	if f.quotes != 1 {
		t.Errorf("%d attestations", f.quotes)
	}
	entries, err := owner.List(ctx, "/")
	if err != nil || len(entries) != 5 {
		t.Error(len(entries), err)
	}
	// The owner knows another version now: what was listed is refused, file by file.
	f.mutex.Lock()
	f.etag = "v2"
	clear(f.opened)
	f.mutex.Unlock()
	_, err = folder.ReadFile(ctx, "in/a.txt")
	wantCode(t, err, problem.VersionMismatch)
	_ = folder.Close()
	_, err = folder.ReadFile(ctx, "in/a.txt")
	wantCode(t, err, problem.Misuse)
}

// A result is published by Commit alone, and whole.
func TestWriting(t *testing.T) {
	f := newFakeOwner(t)
	owner := f.connect(long)
	data := random(t, 200_001)
	for name, write := range map[string]func(*Writer) error{
		"at once": func(w *Writer) error { _, err := w.Write(data); return err },
		"in bits": func(w *Writer) error {
			_, err := io.Copy(struct{ io.Writer }{w}, iotest.HalfReader(bytes.NewReader(data)))
			return err
		},
		"ReadFrom": func(w *Writer) error { _, err := w.ReadFrom(bytes.NewReader(data)); return err },
		"mixed": func(w *Writer) error {
			_, one := w.Write(data[:10])
			_, two := w.ReadFrom(bytes.NewReader(data[10:1000]))
			_, three := w.Write(data[1000:])
			return errors.Join(one, two, three)
		},
	} {
		w, err := owner.Create(ctx, "r/"+name, &CreateOptions{PartBytes: 50_000})
		if err != nil {
			t.Fatal(err)
		}
		if err := write(w); err != nil {
			t.Fatal(name, err)
		}
		if _, ok := f.results["r/"+name]; ok {
			t.Error("published before the commit")
		}
		receipt, err := w.Commit(ctx)
		if err != nil || receipt.Size != int64(len(data)) || !bytes.Equal(f.results["r/"+name], data) {
			t.Fatal(name, err)
		}
		if again, err := w.Commit(ctx); again != receipt || err != nil || w.Close() != nil {
			t.Error("a commit is made once", err)
		}
	}
	w, _ := owner.Create(ctx, "r/closed", nil)
	_, _ = w.Write(data)
	wantCode(t, w.Close(), problem.NotCommitted)
	if _, err := w.Commit(ctx); !errors.Is(err, problem.Misuse) {
		t.Error(err)
	}
	w, _ = owner.Create(ctx, "r/large", &CreateOptions{Size: 100})
	if _, err := w.Write(data); !errors.Is(err, problem.TooLarge) {
		t.Error(err)
	}
	if _, err := w.Commit(ctx); !errors.Is(err, problem.TooLarge) || w.Close() != nil {
		t.Error("committed what was not written", err)
	}
	if len(f.results) != 4 {
		t.Errorf("%d results", len(f.results))
	}
	_, err := owner.Create(ctx, "r/mixed", nil)
	wantCode(t, err, problem.ResultExists)
}

// heldParts lets parts arrive only when they are let go, and says when one has come.
func heldParts(f *fakeOwner) (come <-chan struct{}, free chan<- struct{}) {
	came, freed := make(chan struct{}, 100), make(chan struct{}, 100)
	f.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			body, _ := io.ReadAll(r.Body) // else the server does not notice that the client has gone
			r.Body = io.NopCloser(bytes.NewReader(body))
			came <- struct{}{}
			select {
			case <-freed:
			case <-r.Context().Done():
			}
		}
		return false
	}
	return came, freed
}

// The next part is written while one is underway, and what was handed over may be changed.
func TestNextPartIsWrittenMeanwhile(t *testing.T) {
	f := newFakeOwner(t)
	come, free := heldParts(f)
	data := random(t, 250_000)
	w, err := f.connect(long).Create(ctx, "r", &CreateOptions{PartBytes: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	buffer := bytes.Clone(data[:100_000])
	if _, err := w.Write(buffer); err != nil {
		t.Fatal(err)
	}
	clear(buffer)
	<-come // and it stays there until it is let go
	if _, err := w.Write(data[100_000:199_999]); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		free <- struct{}{}
	}
	if _, err := w.Write(data[199_999:]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx); err != nil || !bytes.Equal(f.results["r"], data) {
		t.Error(err)
	}
}

// A part that failed behind the app is the error of the next Write or of Commit, and nothing is published.
func TestPartThatFailsBehind(t *testing.T) {
	for name, write := range map[string]func(*Writer) error{
		"Write":    func(w *Writer) error { _, err := w.Write(make([]byte, 200_000)); return err },
		"ReadFrom": func(w *Writer) error { _, err := w.ReadFrom(bytes.NewReader(make([]byte, 200_000))); return err },
		"Commit":   func(*Writer) error { return nil },
	} {
		f := newFakeOwner(t)
		f.before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				refuseWith(w, 507, "quota_exceeded")
			}
			return r.Method == http.MethodPut
		}
		w, _ := f.connect(long).Create(ctx, "r", &CreateOptions{PartBytes: 100_000})
		if _, err := w.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(name, err)
		}
		err := write(w)
		if name != "Commit" {
			wantCode(t, err, problem.QuotaExceeded)
			_, err = w.Write([]byte("more"))
			wantCode(t, err, problem.QuotaExceeded)
		}
		_, err = w.Commit(ctx)
		wantCode(t, err, problem.QuotaExceeded)
		if err := w.Close(); err != nil || len(f.results) != 0 || f.count("PUT") != 1 || f.count("DELETE") != 1 {
			t.Error(name, err, f.count("PUT"), f.count("DELETE"))
		}
	}
}

// Whoever gives up while a part is underway does not wait for it; nor does a Commit whose context ends.
func TestGivingUpWhileAPartIsUnderway(t *testing.T) {
	for name, give := range map[string]func(*Writer) error{
		"Abort": func(w *Writer) error { w.Abort(); return nil },
		"Close": (*Writer).Close,
		"Commit": func(w *Writer) error {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			_, err := w.Commit(ended)
			return err
		},
	} {
		f := newFakeOwner(t)
		come, _ := heldParts(f)
		w, _ := f.connect(long).Create(ctx, "r", &CreateOptions{PartBytes: 100_000})
		if _, err := w.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(name, err)
		}
		<-come
		err := give(w)
		switch name {
		case "Abort":
		case "Close":
			wantCode(t, err, problem.NotCommitted)
		case "Commit":
			wantCode(t, err, problem.Cancelled)
		}
		if len(f.results) != 0 || f.count("DELETE") != 1 {
			t.Error(name, f.count("DELETE"))
		}
	}
}

// An owner that takes smaller parts than were begun gets them, also those that are gathered already.
func TestPartsForASmallOwner(t *testing.T) {
	f := newFakeOwner(t)
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		large := r.Method == http.MethodPut && r.ContentLength > 60_000
		if large {
			refuseWith(w, 413, "too_large")
		}
		return large
	}
	data := random(t, 450_000)
	w, _ := f.connect(long).Create(ctx, "r", &CreateOptions{PartBytes: 100_000})
	for at := 0; at < len(data); at += 45_000 {
		if _, err := w.Write(data[at : at+45_000]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(ctx); err != nil || !bytes.Equal(f.results["r"], data) {
		t.Error(err)
	}
}

// cutting sends half of a body and breaks the connection, so many times.
func cutting(times int32) func(http.ResponseWriter, []byte) {
	var left atomic.Int32
	left.Store(times)
	return func(w http.ResponseWriter, sealed []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(sealed)))
		if left.Add(-1) < 0 {
			_, _ = w.Write(sealed)
			return
		}
		_, _ = w.Write(sealed[:len(sealed)*2/3])
		panic(http.ErrAbortHandler)
	}
}

// Reads that go on in order share one request; moving away ends it, and places for such requests are given back.
func TestReadsInOrder(t *testing.T) {
	f := newFakeOwner(t)
	data := random(t, 3*1024*1024+17)
	f.files["a"] = data
	owner := f.connect(long)
	const step, count = 1 << 20, stretchesMost + 3
	readers := make([]*Reader, count)
	read := func(r *Reader, at int) {
		t.Helper()
		got := make([]byte, step)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data[at:at+step]) {
			t.Fatal(at, err)
		}
	}
	for range 2 {
		f.mutex.Lock() // a close that nobody waited for may still come in
		f.requests = nil
		f.mutex.Unlock()
		for i := range readers {
			var err error
			if readers[i], err = owner.Open(ctx, "a"); err != nil {
				t.Fatal(err)
			}
		}
		for _, at := range []int{0, step, 2 * step} {
			for _, r := range readers {
				read(r, at)
			}
		}
		// Two for each that got a place; the others ask for each piece.
		if gets := f.count("GET"); gets < 2*count || gets >= 3*count {
			t.Errorf("%d requests for %d readers", gets, count)
		}
		if _, err := readers[0].Seek(100, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		read(readers[0], 100)
		for _, r := range readers {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			_, err := r.Read(make([]byte, 1))
			wantCode(t, err, problem.Misuse)
		}
		for until := time.Now().Add(long); owner.client.room.taken.Load() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("places are not given back")
			}
		}
	}
}

// A request for several reads that is cut or altered: what was verified is handed out, and then it goes on, or fails.
func TestReadsInOrderAgainstCutsAndChanges(t *testing.T) {
	f := newFakeOwner(t)
	f.files["a"] = random(t, 6_000_000)
	f.write = cutting(6)
	r, err := f.connect(long).Open(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := io.CopyBuffer(&got, struct{ io.Reader }{r}, make([]byte, 1<<20)); err != nil || !bytes.Equal(got.Bytes(), f.files["a"]) {
		t.Fatal(got.Len(), err)
	}
	f.write = nil
	f.content = func(sealed []byte) []byte {
		if len(sealed) > 2_000_000 {
			sealed[1_800_000] ^= 1
		}
		return sealed
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got.Reset()
	_, err = io.CopyBuffer(&got, struct{ io.Reader }{r}, make([]byte, 1<<20))
	wantCode(t, err, problem.Integrity)
	if got.Len() < 1<<20 || !bytes.HasPrefix(f.files["a"], got.Bytes()) {
		t.Error("not what was verified before", got.Len())
	}
}

// Cut answers are gone over at the last verified byte, with a new nonce each, and without a new attestation.
func TestCutAnswers(t *testing.T) {
	f := newFakeOwner(t)
	f.files["a"] = random(t, 1_000_000)
	f.write = cutting(5)
	got, err := f.connect(long).ReadFile(ctx, "a")
	if err != nil || !bytes.Equal(got, f.files["a"]) || f.quotes != 1 {
		t.Error(err, f.quotes)
	}
	for nonce, count := range f.nonces {
		if count > 1 {
			t.Errorf("nonce %s was used %d times", nonce, count)
		}
	}
}

// A connection that the server closed while it was idle is no reason to send a nonce twice.
func TestNonceAfterIdleConnection(t *testing.T) {
	f := newFakeOwner(t)
	f.files["a"] = random(t, 100)
	owner := f.connect(long)
	r, err := owner.Open(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	f.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/content") && !broken.Swap(true) {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	if _, err := io.ReadAll(r); err != nil {
		t.Error(err)
	}
	for nonce, count := range f.nonces {
		if count > 1 {
			t.Errorf("nonce %s was used %d times", nonce, count)
		}
	}
	if f.count("GET") != 2 {
		t.Errorf("%d requests", f.count("GET"))
	}
}

// Whatever a hostile server changes of a file, it is refused with its code, and no byte of it is handed out.
func TestAlteredContent(t *testing.T) {
	for name, change := range map[string]struct {
		change func([]byte) []byte
		code   problem.Code
	}{
		"altered":   {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, problem.Integrity},
		"longer":    {func(b []byte) []byte { return append(b, 0) }, problem.Integrity},
		"cut":       {func(b []byte) []byte { return b[:len(b)-1] }, problem.Unreachable},
		"header":    {func(b []byte) []byte { return b[:56] }, problem.Unreachable},
		"empty":     {func([]byte) []byte { return nil }, problem.Unreachable},
		"an error":  {func([]byte) []byte { return []byte(`{"code":"no_such_file"}`) }, problem.Unreachable},
		"reordered": {func(b []byte) []byte { copy(b[56:], bytes.Clone(b[56+16400:56+2*16400])); return b }, problem.Integrity},
	} {
		f := newFakeOwner(t)
		f.files["a"] = random(t, 2*16384)
		f.content = change.change
		r, err := f.connect(short).Open(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if problem.CodeOf(err) != change.code || len(got) > 16384 || !bytes.HasPrefix(f.files["a"], got) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// A grant that is not the pinned owner's, not for this request, or not of the form of its action opens nothing.
func TestForgedGrants(t *testing.T) {
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for name, c := range map[string]struct {
		lie  func(*fakeOwner)
		code problem.Code
	}{
		"another key":     {func(f *fakeOwner) { f.identity = other }, problem.SignatureInvalid},
		"another id":      {func(f *fakeOwner) { f.payload = func(m map[string]any) { m["id"] = "x" } }, problem.WrongRequest},
		"another request": {func(f *fakeOwner) { f.payload = func(m map[string]any) { m["request"] = "x" } }, problem.WrongRequest},
		"no etag":         {func(f *fakeOwner) { f.grant = func(m map[string]any) { delete(m, "etag") } }, problem.Malformed},
		"a key":           {func(f *fakeOwner) { f.grant = func(m map[string]any) { m["key"] = "x" } }, problem.Malformed},
		"a long secret":   {func(f *fakeOwner) { f.grant = func(m map[string]any) { m["secret"] = b64(make([]byte, 33)) } }, problem.Malformed},
		"a header's end":  {func(f *fakeOwner) { f.grant = func(m map[string]any) { m["token"] = "a\r\nb" } }, problem.Malformed},
	} {
		f := newFakeOwner(t)
		f.files["a"] = []byte("a")
		c.lie(f)
		_, err := f.connect(long).Open(ctx, "a")
		if problem.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newFakeOwner(t)
	owner, _ := Connect(f.server.URL, &Options{CA: f.ca(), Identities: []string{b64(make([]byte, 32))}, Attester: f})
	_, err := owner.Open(ctx, "a")
	if wantCode(t, err, problem.IdentityUnknown); f.quotes != 0 {
		t.Error("evidence was made for somebody else")
	}
}

// Who claims a file of petabytes uses up no memory, and gets nowhere.
func TestHugeSize(t *testing.T) {
	f := newFakeOwner(t)
	f.files["a"] = []byte("a")
	f.grant = func(m map[string]any) { m["size"] = int64(1) << 51 }
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/content") {
			refuseWith(w, 416, "range_invalid")
			return true
		}
		return false
	}
	_, err := f.connect(long).ReadFile(ctx, "a")
	wantCode(t, err, problem.RangeInvalid)
}

// An error for ever ends: "expired" after a few new transfers, "busy" and silence with the patience, each with its code.
func TestErrorsForEver(t *testing.T) {
	for code, c := range map[problem.Code]struct {
		status   int
		where    string
		timeouts []time.Duration
	}{
		problem.TransferExpired:  {410, "/content", []time.Duration{long}},
		problem.ChallengeExpired: {401, "/v1/transfers", []time.Duration{long}},
		problem.Busy:             {503, "/content", patience},
		problem.TransferRevoked:  {410, "/content", []time.Duration{long}},
		problem.TokenInvalid:     {401, "/content", []time.Duration{long}},
	} {
		patiently(t, code, c.timeouts, func(timeout time.Duration) error {
			f := newFakeOwner(t)
			f.files["a"] = []byte("a")
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, c.where) {
					refuseWith(w, c.status, string(code))
					return true
				}
				return false
			}
			_, err := f.connect(timeout).ReadFile(ctx, "a")
			if f.quotes > 1+reopenMost {
				t.Errorf("%s: %d attestations", code, f.quotes)
			}
			return err
		})
	}
}

// Redirects, pages of proxies and other statuses of success are answers of somebody else.
func TestUnexpectedAnswers(t *testing.T) {
	for _, status := range []int{200, 202, 206, 301, 307, 404} {
		f := newFakeOwner(t)
		f.before = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			fmt.Fprint(w, "<html>\x1b[2J")
			return true
		}
		_, err := f.connect(long).Open(ctx, "a")
		if wantCode(t, err, problem.UnexpectedAnswer); f.count("") != 1 {
			t.Errorf("%d: %d requests", status, f.count(""))
		}
	}
}

// An answer without an end is read no further than its bound; one that drips holds nobody beyond the timeout.
func TestEndlessAnswers(t *testing.T) {
	f := newFakeOwner(t)
	f.before = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(201)
		for {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return true
			}
		}
	}
	_, err := f.connect(long).Open(ctx, "a")
	wantCode(t, err, problem.TooLarge)

	f = newFakeOwner(t)
	f.files["a"] = random(t, 100_000)
	f.write = func(w http.ResponseWriter, sealed []byte) {
		for _, b := range sealed {
			if _, err := w.Write([]byte{b}); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond) // what a hostile server does, not how the test waits
		}
	}
	_, err = f.connect(short).ReadFile(ctx, "a")
	wantCode(t, err, problem.Unreachable)
}

// A listing that is unsorted, incomplete or of another folder is no listing.
func TestForgedListings(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"incomplete": func(m string) string { return m[:len(m)-1] },
		"twice":      func(m string) string { return m + m },
		"elsewhere":  func(m string) string { return strings.ReplaceAll(m, "in/", "on/") },
		"climbing":   func(m string) string { return strings.ReplaceAll(m, "in/a", "in/../a") },
	} {
		f := newFakeOwner(t)
		f.files["in/a"] = []byte("a")
		f.manifest = change
		_, err := f.connect(long).OpenFolder(ctx, "in")
		if problem.CodeOf(err) != problem.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A status that cannot be true and a receipt for something else are failures; nothing is called delivered.
func TestForgedAcknowledgements(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(*fakeOwner)
		code problem.Code
	}{
		"more": {func(f *fakeOwner) {
			f.status = func(n int) map[string]any { return map[string]any{"state": "open", "received": n + 1} }
		}, problem.Integrity},
		"ended": {func(f *fakeOwner) {
			f.status = func(n int) map[string]any { return map[string]any{"state": "revoked", "received": n} }
		}, problem.TransferRevoked},
		"size":     {func(f *fakeOwner) { f.receipt = func(m map[string]any) { m["size"] = 1 } }, problem.WrongRequest},
		"path":     {func(f *fakeOwner) { f.receipt = func(m map[string]any) { m["path"] = "s" } }, problem.WrongRequest},
		"document": {func(f *fakeOwner) { f.receipt = func(m map[string]any) { m["document"] = "s" } }, problem.WrongRequest},
	} {
		f := newFakeOwner(t)
		c.lie(f)
		w, err := f.connect(long).Create(ctx, "r", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write([]byte("result"))
		if err == nil {
			_, err = w.Commit(ctx)
		}
		if problem.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A part whose answer was lost is not sent again, and a commit whose answers are all lost is neither success nor failure.
func TestLostAnswers(t *testing.T) {
	f := newFakeOwner(t)
	var lost atomic.Int32
	loseAfter := func(what string, times int32) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method+r.URL.Path[len(r.URL.Path)-7:] == what && lost.Add(1) <= times {
				f.mutex.Lock()
				f.serveTransfer(&discard{header: http.Header{}}, r)
				f.mutex.Unlock()
				panic(http.ErrAbortHandler)
			}
			return false
		}
	}
	f.before = loseAfter("PUTcontent", 1)
	w, _ := f.connect(long).Create(ctx, "r", nil)
	data := random(t, 100_000)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx); err != nil || f.count("PUT") != 1 || !bytes.Equal(f.results["r"], data) {
		t.Error(err, f.count("PUT"))
	}
	patiently(t, problem.CommitUnknown, patience, func(timeout time.Duration) error {
		f = newFakeOwner(t)
		lost.Store(0)
		f.before = loseAfter("POST/commit", 1<<30)
		w, err := f.connect(timeout).Create(ctx, "s", nil)
		if err != nil {
			return err
		}
		_, _ = w.Write(data)
		_, err = w.Commit(ctx)
		return err
	})
	if f.count("DELETE") != 0 {
		t.Error("what may be published was given up")
	}
	// The same where the caller gives up while the commit is on its way.
	cancelling, cancel := context.WithCancel(ctx)
	f.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/commit") {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that the client has gone
			cancel()
			<-r.Context().Done()
			return true
		}
		return false
	}
	w, _ = f.connect(long).Create(ctx, "t", nil)
	_, err := w.Commit(cancelling)
	if wantCode(t, err, problem.CommitUnknown); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A commit whose answer was lost, or given by a proxy, may have arrived: while nobody settles it, it is never called
// refused, and nothing is given up.
func TestCommitThatMayHaveArrived(t *testing.T) {
	for _, first := range []string{"cut", "gateway"} {
		for _, then := range []string{"busy", "gateway", "page", "unknown"} {
			var f *fakeOwner
			var commits atomic.Int32
			before := func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/commit") {
					return false
				}
				if said := commits.Add(1); said == 1 {
					f.mutex.Lock()
					f.serveTransfer(&discard{header: http.Header{}}, r)
					f.mutex.Unlock()
					if first == "cut" {
						panic(http.ErrAbortHandler)
					}
					w.WriteHeader(http.StatusGatewayTimeout)
					return true
				}
				switch then {
				case "busy":
					refuseWith(w, 503, "busy")
				case "gateway":
					w.WriteHeader(http.StatusBadGateway)
				case "unknown":
					refuseWith(w, 404, "transfer_unknown")
				case "page":
					http.NotFound(w, r)
				}
				return true
			}
			patiently(t, problem.CommitUnknown, patience, func(timeout time.Duration) error {
				f = newFakeOwner(t)
				f.before = before
				commits.Store(0)
				w, err := f.connect(timeout).Create(ctx, "r", nil)
				if err != nil {
					return err
				}
				_, _ = w.Write([]byte("data"))
				_, err = w.Commit(ctx)
				return err
			})
			if f.count("DELETE") != 0 || string(f.results["r"]) != "data" {
				t.Error(first, then, f.count("DELETE"))
			}
		}
	}
}

// What is taken is held, and a listing gets on: else both would be asked for again for ever.
func TestNoProgressForEver(t *testing.T) {
	f := newFakeOwner(t)
	f.status = func(int) map[string]any { return map[string]any{"state": "open", "received": 0} }
	w, _ := f.connect(long).Create(ctx, "r", nil)
	_, _ = w.Write([]byte("data"))
	_, err := w.Commit(ctx)
	if wantCode(t, err, problem.Integrity); !errors.Is(err, problem.UploadLost) || f.count("PUT") != 1 {
		t.Error(err, f.count("PUT"))
	}
	f = newFakeOwner(t)
	for i := range 1000 {
		f.files[fmt.Sprintf("d/%04d", i)] = nil
	}
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		later := strings.HasSuffix(r.URL.Path, "/manifest") && r.URL.Query().Get("offset") != "0"
		if later {
			refuseWith(w, 410, "transfer_expired")
		}
		return later
	}
	f.write = func(w http.ResponseWriter, sealed []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(sealed)))
		_, _ = w.Write(sealed[:40_000])
		panic(http.ErrAbortHandler)
	}
	_, err = f.connect(long).List(ctx, "d")
	if wantCode(t, err, problem.TransferExpired); f.quotes != reopenMost+1 {
		t.Error(f.quotes)
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// A context ends what waits for a server, with the caller's own reason.
func TestCancel(t *testing.T) {
	f := newFakeOwner(t)
	f.files["a"] = random(t, 100)
	cancelling, cancel := context.WithCancel(ctx)
	f.write = func(_ http.ResponseWriter, _ []byte) {
		cancel()
		panic(http.ErrAbortHandler)
	}
	r, err := f.connect(long).Open(cancelling, "a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(r)
	if wantCode(t, err, problem.Cancelled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Another CA, another host and nobody there are told apart; nothing is sent to them.
func TestConnections(t *testing.T) {
	f, g := newFakeOwner(t), newFakeOwner(t)
	owner, err := Connect("https://localhost:"+strings.Split(f.server.URL, ":")[2], &Options{
		CA: f.ca(), Identities: []string{f.thumbprint()}, Attester: f, Timeout: long,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = owner.Open(ctx, "a")
	wantCode(t, err, problem.CertificateRefused)
	url := g.server.URL
	g.server.Close()
	owner, _ = Connect(url, &Options{CA: f.ca(), Identities: []string{f.thumbprint()}, Attester: f, Timeout: short})
	_, err = owner.Open(ctx, "a")
	wantCode(t, err, problem.Unreachable)
	if f.count("") != 0 {
		t.Error("something was sent")
	}
	for _, url := range []string{"http://a", "https://", "https://a/b", "https://u@a", "https://a:x", "https://a?b", "a"} {
		_, err := Connect(url, &Options{CA: f.ca(), Identities: []string{f.thumbprint()}, Attester: f})
		wantCode(t, err, problem.ConfigInvalid)
	}
	for _, o := range []Options{
		{Identities: []string{f.thumbprint()}}, {CA: f.ca()}, {CA: []byte("x"), Identities: []string{f.thumbprint()}},
		{CA: f.ca(), Identities: []string{"short"}}, {CAFile: "/nowhere", Identities: []string{f.thumbprint()}},
	} {
		o.Attester = f
		_, err := Connect("https://a", &o)
		wantCode(t, err, problem.ConfigInvalid)
	}
}

// Under a list of owners a name or URL only selects; what is not listed, or given otherwise, is refused.
func TestOwnersList(t *testing.T) {
	f := newFakeOwner(t)
	f.files["a"] = []byte("content")
	folder := t.TempDir()
	ca, list := filepath.Join(folder, "ca.crt"), filepath.Join(folder, "owners.jsonl")
	_ = os.WriteFile(ca, f.ca(), 0o600)
	line := fmt.Sprintf(`{"name":"one","url":%q,"ca":%q,"identity":%q,"next":""}`+"\n", f.server.URL, ca, b64(make([]byte, 32)))
	line = strings.Replace(line, `"next":""`, fmt.Sprintf(`"next":%q`, f.thumbprint()), 1)
	_ = os.WriteFile(list, []byte(line), 0o600)
	t.Setenv(EnvironmentOwners, list)
	for _, name := range []string{"one", "", f.server.URL} {
		owner, err := Connect(name, &Options{Attester: f})
		if err != nil {
			t.Fatal(err)
		}
		if data, err := owner.ReadFile(ctx, "a"); err != nil || string(data) != "content" || owner.Name() != "one" {
			t.Error(err)
		}
	}
	_, err := Connect("two", &Options{Attester: f})
	wantCode(t, err, problem.OwnerUnlisted)
	_, err = Connect("https://127.0.0.1:1", &Options{Attester: f, CA: f.ca(), Identities: []string{f.thumbprint()}})
	wantCode(t, err, problem.OwnerUnlisted)
	_, err = Connect("one", &Options{Attester: f, CA: newFakeOwner(t).ca()[1:]})
	wantCode(t, err, problem.ConfigInvalid)
	_, err = Connect("one", &Options{Attester: f, Identities: []string{b64(make([]byte, 31))}})
	wantCode(t, err, problem.ConfigInvalid)
	_, err = Connect("one", &Options{Attester: f, Owners: "/elsewhere"})
	wantCode(t, err, problem.ConfigInvalid)
	_ = os.WriteFile(list, []byte(strings.Replace(line, `"name"`, `"nam"`, 1)), 0o600)
	_, err = Connect("one", &Options{Attester: f})
	wantCode(t, err, problem.Malformed)
}

// Secrets stay out of whatever prints the objects that hold them.
func TestNothingSecretIsPrinted(t *testing.T) {
	f := newFakeOwner(t)
	f.files["a"] = []byte("a")
	owner := f.connect(long)
	r, err := owner.Open(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	live := r.lease.live
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{owner, r, live} {
			text := fmt.Sprintf(format, value)
			if strings.Contains(text, "secret") || strings.Contains(text, live.token+`"`) ||
				strings.Contains(text, fmt.Sprint(live.secret)) || strings.Contains(text, fmt.Sprintf("%#v", live.secret)) {
				t.Errorf("%s of %T: %s", format, value, text)
			}
		}
	}
}
