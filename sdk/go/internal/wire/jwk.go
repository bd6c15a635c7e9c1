// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"
)

const coordinateBytes = 32

// PublicKey is a P-256 key whose point is on the curve.
type PublicKey struct{ key *ecdh.PublicKey }

// PublicKeyOf is the public key of an ephemeral private one.
func PublicKeyOf(key *ecdh.PrivateKey) PublicKey { return PublicKey{key.PublicKey()} }

// ParseJWK reads a public JWK with exactly kty, crv, x and y.
func ParseJWK(value any, name string) (PublicKey, error) {
	object, ok := value.(Object)
	if !ok {
		return PublicKey{}, Malformed("%s: not a JWK", name)
	}
	f := members(object, name, []string{"kty", "crv", "x", "y"})
	if f.text("kty", 16) != "EC" || f.text("crv", 16) != "P-256" {
		f.fail("%s: not EC on P-256", name)
	}
	point := append([]byte{4}, f.bytes("x", coordinateBytes)...)
	point = append(point, f.bytes("y", coordinateBytes)...)
	if f.err != nil {
		return PublicKey{}, f.err
	}
	// Refuses points off the curve and coordinates that are not below the field's prime.
	key, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return PublicKey{}, Malformed("%s: not a point on P-256", name)
	}
	return PublicKey{key}, nil
}

func (k PublicKey) coordinates() (x, y []byte) {
	point := k.key.Bytes()
	return point[1 : 1+coordinateBytes], point[1+coordinateBytes:]
}

// JWK is the key's text as RFC 7638 hashes it: required members in the order of their names, no white space.
func (k PublicKey) JWK() string {
	x, y := k.coordinates()
	return `{"crv":"P-256","kty":"EC","x":"` + Base64url(x) + `","y":"` + Base64url(y) + `"}`
}

// Thumbprint is the RFC 7638 thumbprint with SHA-256, in base64url: 43 characters.
func (k PublicKey) Thumbprint() string {
	digest := sha256.Sum256([]byte(k.JWK()))
	return Base64url(digest[:])
}

// verify checks an ES256 signature, R and S of 32 bytes each.
func (k PublicKey) verify(message, signature []byte) bool {
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.key.Bytes())
	if err != nil {
		return false
	}
	r := new(big.Int).SetBytes(signature[:coordinateBytes])
	s := new(big.Int).SetBytes(signature[coordinateBytes:])
	digest := sha256.Sum256(message)
	return ecdsa.Verify(key, digest[:], r, s)
}
