// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/ecdh"
	"crypto/sha256"

	"github.com/cross-language-framework/clf-go/problem"
)

// Types of what owners sign.
const (
	TypGrant   = "clf-grant+jws"
	TypReceipt = "clf-receipt+jws"
)

// Grant is what an owner released. It holds secrets: never format it.
type Grant struct {
	Token     string
	Secret    []byte
	Size      int64  // read: the whole file's; folders: the manifest's; write: the most that may be stored
	Etag      string // read, list
	Modified  *int64 // read of a file, where the owner said it; seconds since the epoch
	ExpiresIn int64  // seconds
	IdleIn    int64  // seconds
	Key       []byte // action key, and then nothing else
}

// OpenGrant checks the owner's signature and that the answer is for the request as sent, and only then opens it with
// the request's private key. asked is what the request says.
func OpenGrant(token string, request []byte, asked *Request, key *ecdh.PrivateKey, identity PublicKey) (*Grant, error) {
	payload, err := VerifyJWS(token, TypGrant, identity)
	if err != nil {
		return nil, err
	}
	object, err := ParseObject(payload, "grant", GrantBytes)
	if err != nil {
		return nil, err
	}
	f := members(object, "grant", []string{"id", "request", "sealed"})
	if f.err != nil {
		return nil, f.err
	}
	digest := RequestDigest(request)
	if object["id"] != TransferID(request) || object["request"] != Base64url(digest) {
		return nil, problem.New(problem.WrongRequest, "grant: answers another request")
	}
	sealed := f.text("sealed", GrantBytes)
	audience, err := Unbase64url(asked.Audience, "audience")
	f.keep(err)
	if len(audience) != sha256.Size {
		f.fail("audience: not a thumbprint")
	}
	if f.err != nil {
		return nil, f.err
	}
	plain, err := DecryptJWE(sealed, key, audience, digest)
	if err != nil {
		return nil, err
	}
	grant, err := parseGrant(plain)
	if err != nil {
		return nil, err
	}
	return grant, grant.answers(asked)
}

func parseGrant(plain []byte) (*Grant, error) {
	object, err := ParseObject(plain, "grant", GrantBytes)
	if err != nil {
		return nil, err
	}
	if _, ok := object["key"]; ok {
		f := members(object, "grant", []string{"key"})
		return &Grant{Key: f.bytes("key", -KeyBytes)}, f.err
	}
	f := members(object, "grant", []string{"token", "secret", "size", "expires_in", "idle_in"}, "etag", "modified")
	grant := &Grant{
		Token: f.text("token", 64), Secret: f.bytes("secret", SecretBytes), Size: f.integer("size"),
		ExpiresIn: f.integer("expires_in"), IdleIn: f.integer("idle_in"),
	}
	if !isBase64urlText(grant.Token, 64) {
		f.fail("token: not 1 to 64 characters of base64url")
	}
	if f.has("etag") {
		grant.Etag = f.text("etag", 64)
		f.keep(CheckEtag(grant.Etag, "etag"))
	}
	if f.has("modified") {
		modified := f.integer("modified")
		grant.Modified = &modified
	}
	return grant, f.err
}

// answers refuses a grant that has not the form that its request calls for, so that nobody works with half of one.
func (g *Grant) answers(asked *Request) error {
	switch {
	case (g.Key != nil) != (asked.Action == ActionKey):
		return Malformed("grant: does not answer the action %s", asked.Action)
	case g.Key != nil:
		return nil
	case (g.Etag != "") != (asked.Action == ActionRead || asked.Action == ActionList):
		return Malformed("etag: a %s has one only if it pins a version", asked.Action)
	case g.Modified != nil && (asked.Action != ActionRead || asked.IsFolder()):
		return Malformed("modified: only one file has it")
	case asked.IfMatch != "" && g.Etag != asked.IfMatch:
		return problem.New(problem.WrongRequest, "etag: another version than the one asked for")
	case asked.IsFolder() && g.Size > ManifestBytes:
		return Malformed("size: a manifest has at most %d bytes", ManifestBytes)
	case asked.Range != nil && asked.Range.Offset+asked.Range.Length > g.Size:
		return Malformed("size: the file ends at %d, before the range asked for", g.Size)
	}
	return nil
}
