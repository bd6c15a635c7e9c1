// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strings"
	"unicode/utf8"
)

// Root is the path of an owner's whole folder.
const Root = "/"

// CheckPath refuses what the grammar of section 5 does not allow. A trailing slash means everything below a folder.
func CheckPath(path string) error {
	if path == Root {
		return nil
	}
	if !utf8.ValidString(path) || strings.ContainsFunc(path, forbidden) {
		return refuse(path, "control character, backslash or lone surrogate")
	}
	if len(path) > PathBytes {
		return refuse(path, "longer than 1024 bytes")
	}
	segments := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for _, segment := range segments {
		if segment == "" || segment == "." || segment == ".." {
			return refuse(path, "an empty segment, '.' or '..'")
		}
		if len(segment) > SegmentBytes {
			return refuse(path, "a segment is longer than 255 bytes")
		}
	}
	if strings.HasPrefix(segments[0], ".clf") {
		return refuse(path, "names that begin with '.clf' are the server's")
	}
	return nil
}

// CheckFile is CheckPath for the name of one file.
func CheckFile(path string) error {
	if err := CheckPath(path); err != nil {
		return err
	}
	if IsFolder(path) {
		return refuse(path, "names a folder where a file is meant")
	}
	return nil
}

// IsFolder says whether the name means everything below a folder.
func IsFolder(path string) bool { return strings.HasSuffix(path, "/") }

// CheckKeyName refuses what is no key name: lower case letters, digits, '.', '_', '-', at most 64.
func CheckKeyName(name string) error {
	for i, c := range []byte(name) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') {
			return Malformed("name: %s is not a key name", Shown(name))
		}
	}
	if name == "" || len(name) > KeyNameBytes {
		return Malformed("name: %s is not a key name", Shown(name))
	}
	return nil
}

// CheckEtag refuses what is no etag.
func CheckEtag(etag, name string) error {
	if !isBase64urlText(etag, 64) {
		return Malformed("%s: %s is not an etag", name, Shown(etag))
	}
	return nil
}

// forbidden characters end lines in logs and terminals, or separate names on some systems.
func forbidden(c rune) bool {
	return c < 0x20 || c >= 0x7F && c <= 0x9F || c == '\\' || c == 0x2028 || c == 0x2029
}

func refuse(path, why string) error { return Malformed("path: %s: %s", Shown(path), why) }
