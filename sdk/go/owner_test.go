// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cross-language-framework/clf-go/attest"
	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// fakeOwner speaks the protocol as an owner does, over real TLS, and lies where a test wants it to.
type fakeOwner struct {
	t      *testing.T
	server *httptest.Server
	key    *ecdsa.PrivateKey
	etag   string

	mutex    sync.Mutex
	files    map[string][]byte
	opened   map[string]*fakeTransfer
	results  map[string][]byte
	quotes   int
	nonces   map[string]int
	requests []string

	// What a test may change. before answers a request itself if it returns true.
	before   func(w http.ResponseWriter, r *http.Request) bool
	grant    func(map[string]any)                       // the sealed members
	payload  func(map[string]any)                       // the signed members
	content  func(sealed []byte) []byte                 // a sealed body on its way
	manifest func(string) string                        // the listing
	status   func(received int) map[string]any          // a status
	receipt  func(map[string]any)                       // the receipt's members
	identity *ecdsa.PrivateKey                          // signs instead
	write    func(w http.ResponseWriter, sealed []byte) // sends a content body
}

type fakeTransfer struct {
	asked    *wire.Request
	request  []byte
	secret   []byte
	manifest string
	staged   []byte
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func newFakeOwner(t *testing.T) *fakeOwner {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeOwner{
		t: t, key: key, etag: "v1", files: map[string][]byte{}, opened: map[string]*fakeTransfer{},
		results: map[string][]byte{}, nonces: map[string]int{},
	}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeOwner) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
}

func jwk(key *ecdsa.PrivateKey) string {
	point, _ := key.PublicKey.Bytes()
	return fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, b64(point[1:33]), b64(point[33:]))
}

func (f *fakeOwner) thumbprint() string {
	digest := sha256.Sum256([]byte(jwk(f.key)))
	return b64(digest[:])
}

// Quote counts, as the platform of the test.
func (f *fakeOwner) Quote(context.Context, [64]byte) (attest.Evidence, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.quotes++
	return attest.Evidence{Format: attest.SGX, Quote: []byte("quote")}, nil
}

func (f *fakeOwner) connect(timeout time.Duration) *Owner {
	owner, err := Connect(f.server.URL, &Options{
		CA: f.ca(), Identities: []string{f.thumbprint()}, Attester: f, Timeout: timeout,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = owner.Close() })
	return owner
}

func refuseWith(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":%q,"status":%d,"reference":"ref"}`, code, status)
}

func (f *fakeOwner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mutex.Lock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	if nonce := r.URL.Query().Get("nonce"); nonce != "" {
		f.nonces[nonce]++
	}
	f.mutex.Unlock()
	// Rule 10: a body's length is in its head, 0 for none; nothing is sent in chunks.
	if length := r.Header.Get("Content-Length"); len(r.TransferEncoding) > 0 || r.Method == http.MethodPost && length == "" {
		f.t.Errorf("%s %s: Content-Length %q, Transfer-Encoding %q", r.Method, r.URL.Path, length, r.TransferEncoding)
	}
	if f.before != nil && f.before(w, r) {
		return
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	switch {
	case r.URL.Path == "/v1/challenges":
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"challenge":"c","expires_in":120,"identity":%s}`, jwk(f.key))
	case r.URL.Path == "/v1/transfers":
		f.open(w, r)
	default:
		f.serveTransfer(w, r)
	}
}

func (f *fakeOwner) open(w http.ResponseWriter, r *http.Request) {
	var body struct{ Request string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	sent, _ := base64.RawURLEncoding.DecodeString(body.Request)
	asked, err := wire.ParseRequest(sent)
	if err != nil {
		refuseWith(w, 400, "malformed")
		return
	}
	t := &fakeTransfer{asked: asked, request: sent, secret: make([]byte, 32)}
	_, _ = rand.Read(t.secret)
	members := map[string]any{
		"token": "token", "secret": b64(t.secret), "size": 1 << 20, "expires_in": 3600, "idle_in": 600,
	}
	switch {
	case asked.Action == wire.ActionKey:
		members = map[string]any{"key": b64([]byte("the key"))}
	case asked.Action == wire.ActionWrite:
		if _, ok := f.results[asked.Path]; ok {
			refuseWith(w, 409, "result_exists")
			return
		}
	case asked.IsFolder():
		t.manifest = f.listing(asked.Path)
		members["size"], members["etag"] = len(t.manifest), "m"
	default:
		content, ok := f.files[asked.Path]
		if !ok {
			refuseWith(w, 404, "no_such_file")
			return
		}
		if asked.IfMatch != "" && asked.IfMatch != f.etag {
			refuseWith(w, 412, "version_mismatch")
			return
		}
		members["size"], members["etag"], members["modified"] = len(content), f.etag, 1800000000
	}
	if f.grant != nil {
		f.grant(members)
	}
	plain, _ := json.Marshal(members)
	payload := map[string]any{
		"id": wire.TransferID(sent), "request": b64(wire.RequestDigest(sent)), "sealed": f.encrypt(plain, asked, sent),
	}
	if f.payload != nil {
		f.payload(payload)
	}
	f.opened[wire.TransferID(sent)] = t
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"grant":%q}`, f.sign(payload, wire.TypGrant))
}

func (f *fakeOwner) listing(folder string) string {
	var lines []string
	for path, content := range f.files {
		if folder == "/" || strings.HasPrefix(path, folder) {
			line, _ := json.Marshal(map[string]any{"path": path, "size": len(content), "etag": f.etag, "modified": 1800000000})
			lines = append(lines, path+"\x00"+string(line)+"\n")
		}
	}
	sortStrings(lines)
	var all strings.Builder
	for _, line := range lines {
		_, line, _ = strings.Cut(line, "\x00")
		all.WriteString(line)
	}
	if f.manifest != nil {
		return f.manifest(all.String())
	}
	return all.String()
}

func sortStrings(lines []string) {
	for i := range lines {
		for j := i; j > 0 && lines[j] < lines[j-1]; j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
}

func (f *fakeOwner) sign(payload map[string]any, typ string) string {
	data, _ := json.Marshal(payload)
	signed := b64(fmt.Appendf(nil, `{"alg":"ES256","typ":%q}`, typ)) + "." + b64(data)
	key := f.key
	if f.identity != nil {
		key = f.identity
	}
	digest := sha256.Sum256([]byte(signed))
	r, s, _ := ecdsa.Sign(rand.Reader, key, digest[:])
	return signed + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func (f *fakeOwner) encrypt(plain []byte, asked *wire.Request, sent []byte) string {
	var recipient struct{ X, Y string }
	_ = json.Unmarshal([]byte(asked.Key.JWK()), &recipient)
	x, _ := base64.RawURLEncoding.DecodeString(recipient.X)
	y, _ := base64.RawURLEncoding.DecodeString(recipient.Y)
	public, _ := ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
	ephemeral, _ := ecdh.P256().GenerateKey(rand.Reader)
	shared, _ := ephemeral.ECDH(public)
	apu, _ := base64.RawURLEncoding.DecodeString(asked.Audience)
	apv := wire.RequestDigest(sent)
	input := append([]byte{0, 0, 0, 1}, shared...)
	for _, part := range [][]byte{[]byte("A256GCM"), apu, apv} {
		input = append(binary.BigEndian.AppendUint32(input, uint32(len(part))), part...)
	}
	input = append(input, 0, 0, 1, 0)
	key := sha256.Sum256(input)
	epk := wire.PublicKeyOf(ephemeral).JWK()
	header := b64(fmt.Appendf(nil, `{"alg":"ECDH-ES","enc":"A256GCM","epk":%s,"apu":%q,"apv":%q}`, epk, b64(apu), b64(apv)))
	block, _ := aes.NewCipher(key[:])
	gcm, _ := cipher.NewGCM(block)
	iv := make([]byte, 12)
	_, _ = rand.Read(iv)
	sealed := gcm.Seal(nil, iv, plain, []byte(header))
	at := len(sealed) - 16
	return header + ".." + b64(iv) + "." + b64(sealed[:at]) + "." + b64(sealed[at:])
}

func (f *fakeOwner) serveTransfer(w http.ResponseWriter, r *http.Request) {
	id, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transfers/"), "/")
	t, ok := f.opened[id]
	if !ok {
		refuseWith(w, 404, "transfer_unknown")
		return
	}
	query := r.URL.Query()
	nonce, _ := base64.RawURLEncoding.DecodeString(query.Get("nonce"))
	offset, _ := strconv.ParseInt(query.Get("offset"), 10, 64)
	length, _ := strconv.ParseInt(query.Get("length"), 10, 64)
	sealed := func(op, path, etag string, plain []byte) []byte {
		c := &wire.Context{Op: op, ID: id, Path: path, Etag: etag, Nonce: nonce}
		if op == wire.OpDown || op == wire.OpList {
			c.Offset, c.Length = offset, length
		}
		message, _ := wire.Seal(t.secret, c, plain)
		return message
	}
	switch r.Method + " " + what {
	case "DELETE ":
		delete(f.opened, id)
		w.WriteHeader(http.StatusNoContent)
	case "GET content", "GET manifest":
		content, path, etag, op := f.files[t.asked.Path], t.asked.Path, f.etag, wire.OpDown
		if what == "manifest" {
			content, etag, op = []byte(t.manifest), "m", wire.OpList
		} else if t.asked.IsFolder() {
			index, _ := strconv.Atoi(query.Get("index"))
			var entry wire.Entry
			_ = json.Unmarshal([]byte(strings.Split(t.manifest, "\n")[index]), &entry)
			path, content = entry.Path, f.files[entry.Path]
		}
		body := sealed(op, path, etag, content[offset:offset+length])
		if f.content != nil {
			body = f.content(body)
		}
		if f.write != nil {
			f.write(w, body)
			return
		}
		_, _ = w.Write(body)
	case "PUT content":
		body, _ := io.ReadAll(r.Body)
		c := &wire.Context{Op: wire.OpUp, ID: id, Path: t.asked.Path, Offset: offset, Length: length, Nonce: nonce}
		plain, err := wire.OpenSealed(t.secret, c, body, wire.PartBytes)
		if err != nil {
			refuseWith(w, 400, "body_invalid")
			return
		}
		if offset != int64(len(t.staged)) {
			refuseWith(w, 409, "offset_conflict")
			return
		}
		t.staged = append(t.staged, plain...)
		f.answerStatus(w, t, sealed)
	case "GET ":
		f.answerStatus(w, t, sealed)
	case "POST commit":
		body, _ := io.ReadAll(r.Body)
		document, err := wire.OpenSealed(t.secret, &wire.Context{Op: wire.OpCommit, ID: id, Path: t.asked.Path, Nonce: nonce}, body, wire.CommitBodyBytes)
		if err != nil {
			refuseWith(w, 400, "body_invalid")
			return
		}
		commit, err := wire.ParseCommit(document)
		digest := sha256.Sum256(t.staged)
		if err != nil || commit.SHA256 != fmt.Sprintf("%x", digest) || commit.Size != int64(len(t.staged)) {
			refuseWith(w, 409, "commit_mismatch")
			return
		}
		f.results[t.asked.Path] = t.staged
		hash := sha256.Sum256(document)
		receipt := map[string]any{
			"id": id, "request": b64(wire.RequestDigest(t.request)), "path": t.asked.Path, "size": commit.Size,
			"sha256": commit.SHA256, "document": b64(hash[:]), "committed": 1800000000,
		}
		if f.receipt != nil {
			f.receipt(receipt)
		}
		_, _ = w.Write(sealed(wire.OpReceipt, t.asked.Path, "", []byte(f.sign(receipt, wire.TypReceipt))))
	default:
		refuseWith(w, 405, "method_not_allowed")
	}
}

func (f *fakeOwner) answerStatus(w http.ResponseWriter, t *fakeTransfer, sealed func(op, path, etag string, plain []byte) []byte) {
	status := map[string]any{"state": "open", "received": len(t.staged)}
	if f.status != nil {
		status = f.status(len(t.staged))
	}
	plain, _ := json.Marshal(status)
	_, _ = w.Write(sealed(wire.OpStatus, t.asked.Path, "", plain))
}

func (f *fakeOwner) count(request string) int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	count := 0
	for _, made := range f.requests {
		if strings.HasPrefix(made, request) {
			count++
		}
	}
	return count
}

func random(t *testing.T, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	return data
}

func wantCode(t *testing.T, err error, code problem.Code) {
	t.Helper()
	if problem.CodeOf(err) != code {
		t.Errorf("expected %s, got %v", code, err)
	}
}
