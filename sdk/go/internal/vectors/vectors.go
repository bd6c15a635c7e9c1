// SPDX-License-Identifier: Apache-2.0

// Package vectors runs the test vectors of the specification (spec/vectors) against internal/wire.
package vectors

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// Outcome is what a vector expects and what came of it: "ok", a code, or "wrong_output" where an output differs.
type Outcome struct {
	Kind    string `json:"-"`
	Expect  string `json:"expect"`
	Result  string `json:"result"`
	Skipped string `json:"skipped,omitempty"`
	Differs string `json:"-"` // what is wrong with an output
}

// Holds says whether the vector passed.
func (o Outcome) Holds() bool { return o.Skipped == "" && o.Result == o.Expect }

// vector is the union of the members of all kinds.
type vector struct {
	Kind, Expect, Text, Path, Folder, Token, Typ, Audience, Grant, Receipt, Sealed string
	Directory                                                                      bool
	Status                                                                         int
	Code, Advice, Reference, Detail, State, Thumbprint, Hashed, Digest, Request    string
	ID                                                                             string `json:"id"`
	RequestText                                                                    string `json:"request_text"`
	Length, Received, Committed, Size                                              int64
	SealedBytesN                                                                   int64  `json:"sealed_bytes"`
	AuthenticBytes                                                                 *int64 `json:"authentic_bytes"`
	SHA256                                                                         string `json:"sha256"`
	Op, Etag                                                                       string
	Offset                                                                         int64
	JWK, Key, Identity                                                             json.RawMessage
	Context                                                                        json.RawMessage
	Opened                                                                         map[string]any
	Entries                                                                        []wire.Entry
	Inputs                                                                         []struct{ Owner, Transfer string }
	DocumentHex                                                                    string `json:"document_hex"`
	BytesHex                                                                       string `json:"bytes_hex"`
	ReportDataHex                                                                  string `json:"report_data_hex"`
	PayloadHex                                                                     string `json:"payload_hex"`
	PlaintextHex                                                                   string `json:"plaintext_hex"`
	ApuHex                                                                         string `json:"apu_hex"`
	ApvHex                                                                         string `json:"apv_hex"`
	ContextHex                                                                     string `json:"context_hex"`
	NonceHex                                                                       string `json:"nonce_hex"`
	SecretHex                                                                      string `json:"secret_hex"`
	BodyHex                                                                        string `json:"body_hex"`
}

var serverOnly = map[string]bool{"glob": true, "challenge": true, "secret": true}

// Run runs one vector, given its file's content.
func Run(file []byte) (Outcome, error) {
	var v vector
	if err := json.Unmarshal(file, &v); err != nil {
		return Outcome{}, err
	}
	o := Outcome{Kind: v.Kind, Expect: v.Expect, Result: "ok"}
	run, ok := kinds[v.Kind]
	switch {
	case serverOnly[v.Kind]:
		o.Skipped = v.Kind + " is for servers"
		return o, nil
	case !ok:
		o.Skipped = "unknown kind " + v.Kind
		return o, nil
	}
	c := &check{}
	if err := run(&v, c); err != nil {
		if o.Result = string(problem.CodeOf(err)); o.Result == "" {
			o.Result = err.Error()
		}
	}
	if c.differs != "" && (o.Result == "ok" || o.Expect != "ok") {
		o.Result, o.Differs = "wrong_output", c.differs
	}
	return o, nil
}

// check gathers outputs that differ.
type check struct{ differs string }

func (c *check) equal(what string, got, want any) {
	if c.differs == "" && !reflect.DeepEqual(got, want) {
		c.differs = fmt.Sprintf("%s is %v, not %v", what, got, want)
	}
}

func unhex(text string) []byte { data, _ := hex.DecodeString(text); return data }

func unb64(text string) []byte { data, _ := base64.RawURLEncoding.DecodeString(text); return data }

func parseKey(raw json.RawMessage, name string) (wire.PublicKey, error) {
	object, err := wire.ParseObject(raw, name, 4096)
	if err != nil {
		return wire.PublicKey{}, err
	}
	return wire.ParseJWK(object, name)
}

func privateKey(raw json.RawMessage) *ecdh.PrivateKey {
	var jwk struct{ D string }
	_ = json.Unmarshal(raw, &jwk)
	key, _ := ecdh.P256().NewPrivateKey(unb64(jwk.D))
	return key
}

var kinds = map[string]func(*vector, *check) error{
	"base64url": func(v *vector, c *check) error {
		data, err := wire.Unbase64url(v.Text, "text")
		if err == nil {
			c.equal("bytes", hex.EncodeToString(data), v.BytesHex)
			c.equal("text", wire.Base64url(data), v.Text)
		}
		return err
	},
	"json": func(v *vector, _ *check) error {
		_, err := wire.ParseObject(unhex(v.DocumentHex), "document", wire.CommitBodyBytes)
		return err
	},
	"jwk": func(v *vector, c *check) error {
		key, err := parseKey(v.JWK, "jwk")
		if err == nil {
			c.equal("thumbprint", key.Thumbprint(), v.Thumbprint)
			c.equal("hashed", key.JWK(), v.Hashed)
		}
		return err
	},
	"path": func(v *vector, c *check) error {
		err := wire.CheckPath(v.Path)
		if err == nil {
			c.equal("directory", wire.IsFolder(v.Path), v.Directory)
		}
		return err
	},
	"request": func(v *vector, c *check) error {
		r := unb64(v.Request)
		_, err := wire.ParseRequest(r)
		if err == nil {
			data := wire.ReportData(r)
			c.equal("report_data", hex.EncodeToString(data[:]), v.ReportDataHex)
			c.equal("id", wire.TransferID(r), v.ID)
			c.equal("digest", wire.Base64url(wire.RequestDigest(r)), v.Digest)
		}
		return err
	},
	"jws": func(v *vector, c *check) error {
		identity, err := parseKey(v.Identity, "identity")
		if err != nil {
			return err
		}
		payload, err := wire.VerifyJWS(v.Token, v.Typ, identity)
		if err == nil {
			c.equal("payload", hex.EncodeToString(payload), v.PayloadHex)
		}
		return err
	},
	"jwe": func(v *vector, c *check) error {
		plain, err := wire.DecryptJWE(v.Token, privateKey(v.Key), unhex(v.ApuHex), unhex(v.ApvHex))
		if err == nil {
			c.equal("plaintext", hex.EncodeToString(plain), v.PlaintextHex)
		}
		return err
	},
	"grant":   runGrant,
	"context": func(v *vector, c *check) error { return v.sameContext(c) },
	"sealed":  runSealed,
	"sealed_size": func(v *vector, c *check) error {
		c.equal("sealed_bytes", wire.SealedSize(v.Length), v.SealedBytesN)
		return nil
	},
	"status": func(v *vector, c *check) error {
		status, err := wire.ParseStatus(unhex(v.DocumentHex))
		if err == nil {
			c.equal("status", *status, wire.Status{State: v.State, Received: v.Received})
		}
		return err
	},
	"manifest": func(v *vector, c *check) error {
		entries, err := wire.ParseManifest(unhex(v.DocumentHex), v.Folder)
		if err == nil && len(entries)+len(v.Entries) > 0 {
			c.equal("entries", entries, v.Entries)
		}
		return err
	},
	"commit": func(v *vector, c *check) error {
		document := unhex(v.DocumentHex)
		commit, err := wire.ParseCommit(document)
		if err == nil {
			digest := sha256.Sum256(document)
			c.equal("digest", wire.Base64url(digest[:]), v.Digest)
			c.equal("size", commit.Size, v.Size)
			c.equal("sha256", commit.SHA256, v.SHA256)
			c.equal("inputs", len(commit.Inputs), len(v.Inputs))
			for i, input := range v.Inputs {
				c.equal("input", commit.Inputs[i], wire.Input{Owner: input.Owner, Transfer: input.Transfer})
			}
		}
		return err
	},
	"receipt": func(v *vector, c *check) error {
		identity, err := parseKey(v.Identity, "identity")
		if err != nil {
			return err
		}
		document := unhex(v.DocumentHex)
		commit, err := wire.ParseCommit(document)
		if err != nil {
			return err
		}
		receipt, err := wire.OpenReceipt(v.Receipt, unb64(v.Request), v.Path, commit, document, identity)
		if err == nil {
			c.equal("committed", receipt.Committed, v.Committed)
		}
		return err
	},
	"problem": func(v *vector, c *check) error {
		e := wire.ParseProblem(v.Status, unhex(v.BodyHex), "")
		c.equal("code", string(e.Code), v.Code)
		c.equal("advice", string(e.Advice()), v.Advice)
		c.equal("reference", e.Reference, v.Reference)
		if !strings.Contains(e.Message, v.Detail) {
			c.equal("detail", e.Message, v.Detail)
		}
		return nil
	},
}

func runGrant(v *vector, c *check) error {
	identity, err := parseKey(v.Identity, "identity")
	if err != nil {
		return err
	}
	request := unb64(v.Request)
	asked, err := wire.ParseRequest(request)
	if err != nil {
		return err
	}
	// What the client knows itself decides, not what its request says of it.
	asked.Audience = v.Audience
	grant, err := wire.OpenGrant(v.Grant, request, asked, privateKey(v.Key), identity)
	if err != nil {
		return err
	}
	opened := map[string]any{}
	if grant.Key != nil {
		opened["key_hex"] = hex.EncodeToString(grant.Key)
	} else {
		opened["token"] = grant.Token
		opened["secret_hex"] = hex.EncodeToString(grant.Secret)
		opened["size"] = float64(grant.Size)
		opened["expires_in"] = float64(grant.ExpiresIn)
		opened["idle_in"] = float64(grant.IdleIn)
		if grant.Etag != "" {
			opened["etag"] = grant.Etag
		}
		if grant.Modified != nil {
			opened["modified"] = float64(*grant.Modified)
		}
	}
	c.equal("opened", opened, v.Opened)
	return nil
}

func (v *vector) context() *wire.Context {
	return &wire.Context{
		Op: v.Op, ID: v.ID, Path: v.Path, Etag: v.Etag, Offset: v.Offset, Length: v.Length, Nonce: unhex(v.NonceHex),
	}
}

func (v *vector) sameContext(c *check) error {
	c.equal("context", hex.EncodeToString(v.context().Encode()), v.ContextHex)
	return nil
}

func runSealed(v *vector, c *check) error {
	var inner vector
	if err := json.Unmarshal(v.Context, &inner); err != nil {
		return err
	}
	if v.Expect == "ok" {
		inner.ContextHex = v.ContextHex
		_ = inner.sameContext(c)
	}
	var plain []byte
	err := wire.OpenStream(bytes.NewReader(unb64(v.Sealed)), unhex(v.SecretHex), inner.context(), v.Length, func(chunk []byte) error {
		plain = append(plain, chunk...)
		return nil
	})
	if err == nil {
		digest := sha256.Sum256(plain)
		c.equal("sha256", hex.EncodeToString(digest[:]), v.SHA256)
	} else if v.AuthenticBytes != nil && int64(len(plain)) > *v.AuthenticBytes {
		c.differs = fmt.Sprintf("%d plain bytes were handed out, at most %d are authentic", len(plain), *v.AuthenticBytes)
	}
	return err
}
