// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
)

var strict = base64.RawURLEncoding.Strict()

// Base64url without padding (RFC 4648 section 5).
func Base64url(data []byte) string { return strict.EncodeToString(data) }

// Unbase64url decodes the one form that a byte string has: no padding, no white space, no spare bits. The text is kept
// out of the error, because it may be a secret.
func Unbase64url(text, name string) ([]byte, error) {
	// The standard decoder skips line ends, strict or not.
	if strings.ContainsAny(text, "\r\n") {
		return nil, Malformed("%s: not base64url without padding", name)
	}
	data, err := strict.DecodeString(text)
	if err != nil {
		return nil, Malformed("%s: not base64url without padding", name)
	}
	return data, nil
}

// isBase64urlText says whether the text has 1 to most characters of the alphabet, as tokens, etags and references do.
func isBase64urlText(text string, most int) bool {
	for _, c := range []byte(text) {
		if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return len(text) >= 1 && len(text) <= most
}

// appendPrefixed appends L(data): the length as an unsigned 32-bit big-endian integer, then the bytes.
func appendPrefixed[T string | []byte](out []byte, data T) []byte {
	return append(binary.BigEndian.AppendUint32(out, uint32(len(data))), data...)
}
