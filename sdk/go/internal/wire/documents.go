// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/cross-language-framework/clf-go/problem"
)

// Entry is one file of a folder.
type Entry struct {
	Path     string // the whole path from the owner's folder
	Size     int64  // bytes
	Etag     string // the version, opaque
	Modified int64  // when it last changed, seconds since the epoch
}

// ParseManifest reads the whole manifest of a folder: complete lines, sorted, every path below the folder.
func ParseManifest(data []byte, folder string) ([]Entry, error) {
	if len(data) > ManifestBytes {
		return nil, Malformed("manifest: %d bytes, at most %d", len(data), ManifestBytes)
	}
	below := folder
	if folder == Root {
		below = ""
	}
	lines, err := lines(data, "manifest", ManifestEntries)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(lines))
	for i, line := range lines {
		object, err := ParseObject(line, "manifest", LineBytes)
		if err != nil {
			return nil, err
		}
		f := members(object, "manifest", []string{"path", "size", "etag", "modified"})
		e := Entry{f.text("path", PathBytes), f.integer("size"), f.text("etag", 64), f.integer("modified")}
		f.keep(CheckFile(e.Path))
		f.keep(CheckEtag(e.Etag, "etag"))
		if !strings.HasPrefix(e.Path, below) {
			f.fail("manifest: %s does not lie below %s", Shown(e.Path), Shown(folder))
		}
		if i > 0 && entries[i-1].Path >= e.Path {
			f.fail("manifest: not sorted by path, or a path stands twice")
		}
		if f.err != nil {
			return nil, f.err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Status is how far a transfer is; Received counts the durable bytes of a write.
type Status struct {
	State    string
	Received int64
}

var states = []string{"open", "committed", "closed", "revoked", "expired", "changed"}

// ParseStatus reads a status.
func ParseStatus(data []byte) (*Status, error) {
	object, err := ParseObject(data, "status", StatusBytes)
	if err != nil {
		return nil, err
	}
	f := members(object, "status", []string{"state", "received"})
	status := &Status{f.text("state", 64), f.integer("received")}
	if !slices.Contains(states, status.State) {
		f.fail("state: %s is not one of %s", Shown(status.State), strings.Join(states, ", "))
	}
	return status, f.err
}

// Input is an owner and a transfer that a result was computed from: hashes, so that owners learn no names of each other.
type Input struct {
	Owner    string // the identity's thumbprint
	Transfer string // the transfer's id
}

// Commit is what the enclave says that it sent.
type Commit struct {
	Size   int64
	SHA256 string // hex
	Inputs []Input
}

// Encode gives the document: the result, then a line for each input.
func (c *Commit) Encode() []byte {
	document := fmt.Appendf(nil, "{\"size\":%d,\"sha256\":%q}\n", c.Size, c.SHA256)
	for _, input := range c.Inputs {
		document = fmt.Appendf(document, "{\"owner\":%q,\"transfer\":%q}\n", input.Owner, input.Transfer)
	}
	return document
}

// ParseCommit reads a commit document, as owners do.
func ParseCommit(data []byte) (*Commit, error) {
	if len(data) > CommitBodyBytes {
		return nil, Malformed("commit: %d bytes, at most %d", len(data), CommitBodyBytes)
	}
	lines, err := lines(data, "commit", CommitInputs+1)
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, Malformed("commit: empty")
	}
	object, err := ParseObject(lines[0], "commit", LineBytes)
	if err != nil {
		return nil, err
	}
	f := members(object, "commit", []string{"size", "sha256"})
	commit := &Commit{Size: f.integer("size"), SHA256: f.text("sha256", 64)}
	if _, err := hex.DecodeString(commit.SHA256); err != nil || len(commit.SHA256) != 64 || strings.ToLower(commit.SHA256) != commit.SHA256 {
		f.fail("sha256: not 64 lower-case hex digits")
	}
	for _, line := range lines[1:] {
		object, err := ParseObject(line, "commit", LineBytes)
		if err != nil {
			return nil, err
		}
		input := members(object, "commit", []string{"owner", "transfer"})
		input.bytes("owner", sha256.Size)
		input.bytes("transfer", sha256.Size)
		commit.Inputs = append(commit.Inputs, Input{input.text("owner", 64), input.text("transfer", 64)})
		f.keep(input.err)
	}
	return commit, f.err
}

// Receipt is the owner's signed word that a result is published.
type Receipt struct {
	ID        string // the transfer
	Path      string
	Size      int64
	SHA256    string // hex
	Committed int64  // seconds since the epoch
}

// OpenReceipt checks the owner's signature and that exactly this result of this transfer is acknowledged. document is
// the commit as it was sent.
func OpenReceipt(token string, request []byte, path string, commit *Commit, document []byte, identity PublicKey) (*Receipt, error) {
	payload, err := VerifyJWS(token, TypReceipt, identity)
	if err != nil {
		return nil, err
	}
	object, err := ParseObject(payload, "receipt", GrantBytes)
	if err != nil {
		return nil, err
	}
	f := members(object, "receipt", []string{"id", "request", "path", "size", "sha256", "document", "committed"})
	receipt := &Receipt{
		ID: f.text("id", 64), Path: f.text("path", PathBytes), Size: f.integer("size"), SHA256: f.text("sha256", 64),
		Committed: f.integer("committed"),
	}
	digest, sent := f.text("request", 64), f.text("document", 64)
	if f.err != nil {
		return nil, f.err
	}
	hash := sha256.Sum256(document)
	expected := Receipt{TransferID(request), path, commit.Size, commit.SHA256, receipt.Committed}
	if *receipt != expected || digest != Base64url(RequestDigest(request)) || sent != Base64url(hash[:]) {
		return nil, problem.New(problem.WrongRequest, "receipt: acknowledges another result")
	}
	return receipt, nil
}

// lines splits a document whose lines each end in a newline.
func lines(data []byte, name string, most int) ([][]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if data[len(data)-1] != '\n' {
		return nil, Malformed("%s: the last line has no end", name)
	}
	if count := bytes.Count(data, []byte{'\n'}); count > most {
		return nil, Malformed("%s: %d lines, at most %d", name, count, most)
	}
	return bytes.Split(data[:len(data)-1], []byte{'\n'}), nil
}
