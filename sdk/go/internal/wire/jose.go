// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/cross-language-framework/clf-go/problem"
)

const (
	gcmNonceBytes = 12
	gcmTagBytes   = 16
	headerBytes   = 1024
)

// VerifyJWS gives the payload of a compact JWS of section 10, once its signature by the key holds. Nothing in the token
// chooses a key or an algorithm.
func VerifyJWS(token, typ string, key PublicKey) ([]byte, error) {
	if len(token) > GrantBytes {
		return nil, Malformed("JWS: %d bytes, at most %d", len(token), GrantBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, Malformed("JWS: not three parts")
	}
	header, err := joseHeader(parts[0], "JWS header")
	if err != nil {
		return nil, err
	}
	if len(header) != 2 || header["alg"] != "ES256" || header["typ"] != typ {
		return nil, problem.New(problem.SignatureInvalid, "JWS header: must be alg ES256, typ "+typ+" and nothing else")
	}
	payload, err := Unbase64url(parts[1], "JWS payload")
	if err != nil {
		return nil, err
	}
	signature, err := Unbase64url(parts[2], "JWS signature")
	if err != nil {
		return nil, err
	}
	if len(signature) != 2*coordinateBytes {
		return nil, Malformed("JWS signature: %d bytes, must be %d", len(signature), 2*coordinateBytes)
	}
	if !key.verify([]byte(parts[0]+"."+parts[1]), signature) {
		return nil, problem.New(problem.SignatureInvalid, "JWS: not signed by the pinned key")
	}
	return payload, nil
}

func joseHeader(part, name string) (Object, error) {
	data, err := Unbase64url(part, name)
	if err != nil {
		return nil, err
	}
	return ParseObject(data, name, headerBytes)
}

// DecryptJWE gives the plaintext of a compact JWE of section 11 that was made for this key, apu and apv.
func DecryptJWE(token string, key *ecdh.PrivateKey, apu, apv []byte) ([]byte, error) {
	if len(token) > GrantBytes {
		return nil, Malformed("JWE: %d bytes, at most %d", len(token), GrantBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 5 {
		return nil, Malformed("JWE: not five parts")
	}
	header, err := joseHeader(parts[0], "JWE header")
	if err != nil {
		return nil, err
	}
	f := members(header, "JWE header", []string{"alg", "enc", "epk", "apu", "apv"})
	if f.err == nil && (header["alg"] != "ECDH-ES" || header["enc"] != "A256GCM") {
		f.fail("JWE header: only ECDH-ES with A256GCM is accepted")
	}
	if f.err != nil {
		return nil, f.err
	}
	if header["apu"] != Base64url(apu) || header["apv"] != Base64url(apv) {
		return nil, problem.New(problem.WrongRequest, "JWE header: made for another owner or request")
	}
	if parts[1] != "" {
		return nil, Malformed("JWE: direct key agreement has no encrypted key")
	}
	epk, err := ParseJWK(header["epk"], "epk")
	if err != nil {
		return nil, err
	}
	var sealed [3][]byte
	for i, size := range []int{gcmNonceBytes, -1, gcmTagBytes} {
		if sealed[i], err = Unbase64url(parts[2+i], "JWE"); err != nil {
			return nil, err
		}
		if size >= 0 && len(sealed[i]) != size {
			return nil, Malformed("JWE: a part has %d bytes, must have %d", len(sealed[i]), size)
		}
	}
	shared, err := key.ECDH(epk.key)
	if err != nil {
		return nil, Malformed("epk: not a point on P-256")
	}
	aead, err := newGCM(contentKey(shared, apu, apv))
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, sealed[0], append(sealed[1], sealed[2]...), []byte(parts[0]))
	if err != nil {
		return nil, problem.New(problem.WrongKey, "JWE: altered, or sealed for another key")
	}
	return plain, nil
}

// contentKey is one round of the Concat KDF (RFC 7518 section 4.6.2, direct key agreement).
func contentKey(shared, apu, apv []byte) []byte {
	input := append([]byte{0, 0, 0, 1}, shared...)
	input = appendPrefixed(input, "A256GCM")
	input = appendPrefixed(input, apu)
	input = appendPrefixed(input, apv)
	input = binary.BigEndian.AppendUint32(input, 256)
	key := sha256.Sum256(input)
	return key[:]
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, problem.New(problem.Misuse, "AES takes no key of this size")
	}
	return cipher.NewGCM(block)
}
