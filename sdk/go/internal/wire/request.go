// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
)

// The actions of a request.
const (
	ActionRead  = "read"
	ActionWrite = "write"
	ActionList  = "list"
	ActionKey   = "key"
)

// Range is a part of a file: bytes from Offset on.
type Range struct{ Offset, Length int64 }

// Request is what R says. Range, IfMatch and Size are left out of R where they are nil or empty.
type Request struct {
	Audience  string
	Challenge string
	Run       []byte
	Key       PublicKey
	Action    string
	Path      string // read, write, list
	Name      string // key
	Range     *Range // read of a file
	IfMatch   string // read of a file
	Size      *int64 // write: the most bytes that the result may have
}

// IsFolder says whether everything below a folder is asked for.
func (r *Request) IsFolder() bool { return r.Action != ActionKey && IsFolder(r.Path) }

// Encode gives the bytes R, after a check of everything that the protocol asks of them.
func (r *Request) Encode() ([]byte, error) {
	value := struct {
		Audience  string          `json:"audience"`
		Challenge string          `json:"challenge"`
		Run       string          `json:"run"`
		Key       json.RawMessage `json:"key"`
		Action    string          `json:"action"`
		Path      string          `json:"path,omitempty"`
		Name      string          `json:"name,omitempty"`
		Offset    *int64          `json:"offset,omitempty"`
		Length    *int64          `json:"length,omitempty"`
		Size      *int64          `json:"size,omitempty"`
		IfMatch   string          `json:"if_match,omitempty"`
	}{
		r.Audience, r.Challenge, Base64url(r.Run), json.RawMessage(r.Key.JWK()), r.Action, r.Path, r.Name, nil, nil,
		r.Size, r.IfMatch,
	}
	if r.Range != nil {
		value.Offset, value.Length = &r.Range.Offset, &r.Range.Length
	}
	if r.Action != ActionKey {
		// The encoder would repair a name that is not valid Unicode, and ask for another one.
		if err := CheckPath(r.Path); err != nil {
			return nil, err
		}
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, Malformed("request: %v", err)
	}
	if _, err := ParseRequest(encoded); err != nil {
		return nil, err
	}
	return encoded, nil
}

// ParseRequest reads R strictly: the members that its action needs, and no others.
func ParseRequest(data []byte) (*Request, error) {
	object, err := ParseObject(data, "request", RequestBytes)
	if err != nil {
		return nil, err
	}
	required := []string{"audience", "challenge", "run", "key", "action"}
	var optional []string
	action, _ := object["action"].(string)
	switch action {
	case ActionRead:
		required, optional = append(required, "path"), []string{"offset", "length", "if_match"}
	case ActionWrite:
		required, optional = append(required, "path"), []string{"size"}
	case ActionList:
		required = append(required, "path")
	case ActionKey:
		required = append(required, "name")
	default:
		return nil, Malformed("action: %s is not one of read, write, list, key", Shown(action))
	}
	f := members(object, "request", required, optional...)
	if f.err != nil {
		return nil, f.err
	}
	f.bytes("audience", sha256.Size)
	r := &Request{Action: action, Audience: f.text("audience", 64), Challenge: f.text("challenge", ChallengeBytes)}
	r.Run = f.bytes("run", RunBytes)
	r.Key, err = ParseJWK(object["key"], "key")
	f.keep(err)
	f.subject(r)
	f.bounds(r)
	return r, f.err
}

// subject reads the path or the key's name.
func (f *fields) subject(r *Request) {
	if r.Action == ActionKey {
		r.Name = f.text("name", KeyNameBytes)
		f.keep(CheckKeyName(r.Name))
		return
	}
	r.Path = f.text("path", PathBytes)
	if r.Action == ActionWrite {
		f.keep(CheckFile(r.Path))
	} else {
		f.keep(CheckPath(r.Path))
	}
	if r.Action == ActionList && !IsFolder(r.Path) {
		f.fail("path: %s: a list names a folder, with '/' at its end", Shown(r.Path))
	}
}

// bounds reads range, version and size.
func (f *fields) bounds(r *Request) {
	if f.has("offset") != f.has("length") {
		f.fail("offset: a range has both offset and length")
	}
	if f.has("offset") {
		r.Range = &Range{f.integer("offset"), f.integer("length")}
		if r.IsFolder() {
			f.fail("offset: a folder is read whole")
		}
		if r.Range.Offset+r.Range.Length > FileBytes {
			f.fail("length: the range ends beyond %d", int64(FileBytes))
		}
	}
	if f.has("if_match") {
		r.IfMatch = f.text("if_match", 64)
		f.keep(CheckEtag(r.IfMatch, "if_match"))
		if r.IsFolder() {
			f.fail("if_match: a folder has no etag")
		}
	}
	if f.has("size") {
		size := f.integer("size")
		r.Size = &size
	}
}

// ReportData is what evidence for R carries: SHA-512 over a label and R as sent.
func ReportData(request []byte) [64]byte {
	return sha512.Sum512(append([]byte("clf-transfer-v1\x00"), request...))
}

// TransferID names the transfer that R opens: the same R is always the same transfer.
func TransferID(request []byte) string {
	digest := sha256.Sum256(append([]byte("clf-transfer-id-v1\x00"), request...))
	return Base64url(digest[:])
}

// RequestDigest is SHA-256(R), which binds the owner's answer to the request.
func RequestDigest(request []byte) []byte {
	digest := sha256.Sum256(request)
	return digest[:]
}
