// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/cross-language-framework/clf-go/problem"
)

// Object is one JSON object of the protocol: strings, int64, bool, nil, []any and Object.
type Object map[string]any

// Malformed is the error of bytes that do not follow the protocol.
func Malformed(format string, args ...any) error {
	return problem.New(problem.Malformed, fmt.Sprintf(format, args...))
}

// Shown is foreign text as an error message may have it: quoted, escaped and cut.
func Shown(text string) string {
	const most = 60
	if len(text) > most {
		return strconv.QuoteToASCII(text[:most]) + "..."
	}
	return strconv.QuoteToASCII(text)
}

// ParseObject parses one JSON object as section 2 has it. encoding/json is not used, because it takes members that
// stand twice, repairs bad UTF-8 and matches member names without regard to case.
func ParseObject(data []byte, name string, most int) (Object, error) {
	if len(data) > most {
		return nil, Malformed("%s: %d bytes, at most %d", name, len(data), most)
	}
	if !utf8.Valid(data) {
		return nil, Malformed("%s: not UTF-8", name)
	}
	p := parser{data: data}
	p.space()
	if p.peek() != '{' {
		return nil, Malformed("%s: not a JSON object", name)
	}
	value := p.value(JSONDepth)
	p.space()
	if p.why == "" && p.at != len(data) {
		p.fail("something follows the object")
	}
	if p.why != "" {
		return nil, Malformed("%s: not JSON of this protocol: %s", name, p.why)
	}
	object, _ := value.(Object)
	return object, nil
}

// parser is a recursive descent whose first failure ends everything: at is moved to the end and why is set.
type parser struct {
	data []byte
	at   int
	why  string
}

func (p *parser) fail(why string) any {
	if p.why == "" {
		p.why = why
	}
	p.at = len(p.data)
	return nil
}

func (p *parser) peek() byte {
	if p.at < len(p.data) {
		return p.data[p.at]
	}
	return 0
}

func (p *parser) space() {
	for p.at < len(p.data) {
		switch p.data[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) take(c byte) bool {
	p.space()
	if p.peek() != c || p.at >= len(p.data) {
		return false
	}
	p.at++
	return true
}

func (p *parser) value(depth int) any {
	p.space()
	switch c := p.peek(); {
	case c == '{' || c == '[':
		if depth == 0 {
			return p.fail("nested too deep")
		}
		p.at++
		if c == '{' {
			return p.object(depth - 1)
		}
		return p.array(depth - 1)
	case c == '"':
		return p.text()
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	default:
		for _, known := range literals {
			if bytes.HasPrefix(p.data[p.at:], []byte(known.word)) {
				p.at += len(known.word)
				return known.value
			}
		}
		return p.fail("no value")
	}
}

var literals = []struct {
	word  string
	value any
}{{"true", true}, {"false", false}, {"null", nil}}

func (p *parser) object(depth int) any {
	object := Object{}
	if p.take('}') {
		return object
	}
	for p.why == "" {
		p.space()
		if p.peek() != '"' {
			return p.fail("no member name")
		}
		name := p.text()
		if !p.take(':') {
			return p.fail("no colon")
		}
		if _, twice := object[name]; twice {
			return p.fail("member " + Shown(name) + " stands twice")
		}
		object[name] = p.value(depth)
		if p.take('}') {
			return object
		}
		if !p.take(',') {
			return p.fail("no comma")
		}
	}
	return nil
}

func (p *parser) array(depth int) any {
	array := []any{}
	if p.take(']') {
		return array
	}
	for p.why == "" {
		array = append(array, p.value(depth))
		if p.take(']') {
			return array
		}
		if !p.take(',') {
			return p.fail("no comma")
		}
	}
	return nil
}

// number takes integers alone; -0, fractions, exponents, leading zeros and more than 16 digits are refused.
func (p *parser) number() any {
	from := p.at
	if p.peek() == '-' {
		p.at++
	}
	digits := p.at
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
	count := p.at - digits
	if c := p.peek(); c == '.' || c == 'e' || c == 'E' || count == 0 || count > 16 {
		return p.fail("no integer of at most 16 digits")
	}
	if p.data[digits] == '0' && (count > 1 || digits > from) {
		return p.fail("zero is written 0")
	}
	number, err := strconv.ParseInt(string(p.data[from:p.at]), 10, 64)
	if err != nil {
		return p.fail("no integer")
	}
	return number
}

// text reads a string from its opening quote on. A lone surrogate becomes the three bytes that UTF-8 would have for it,
// which are no valid UTF-8: it stays different from everything else, and whoever needs a name refuses it.
func (p *parser) text() string {
	p.at++
	var out []byte
	for p.at < len(p.data) {
		c := p.data[p.at]
		p.at++
		switch {
		case c == '"':
			return string(out)
		case c < 0x20:
			p.fail("control character in a string")
		case c != '\\':
			out = append(out, c)
		default:
			out = p.escape(out)
		}
	}
	p.fail("a string does not end")
	return ""
}

func (p *parser) escape(out []byte) []byte {
	c := p.peek()
	p.at++
	if i := bytes.IndexByte([]byte(`"\/bfnrt`), c); i >= 0 && p.at <= len(p.data) {
		return append(out, "\"\\/\b\f\n\r\t"[i])
	}
	if c != 'u' {
		p.fail("unknown escape")
		return out
	}
	r := p.hex4()
	if utf16.IsSurrogate(r) && bytes.HasPrefix(p.data[min(p.at, len(p.data)):], []byte(`\u`)) {
		before := p.at
		p.at += 2
		if pair := utf16.DecodeRune(r, p.hex4()); pair != utf8.RuneError {
			return utf8.AppendRune(out, pair)
		}
		if p.why == "" {
			p.at = before
		}
	}
	if utf16.IsSurrogate(r) {
		return append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0x3F)
	}
	return utf8.AppendRune(out, r)
}

func (p *parser) hex4() rune {
	var r rune
	for range 4 {
		c := p.peek()
		p.at++
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			p.fail("no four hexadecimal digits")
			return 0
		}
	}
	return r
}

// fields reads the members of an object; the first failure stays in err and what is read afterwards is zero.
type fields struct {
	object Object
	err    error
}

// members starts reading: missing and unknown members are refused.
func members(object Object, name string, required []string, optional ...string) *fields {
	f := &fields{object: object}
	for _, member := range required {
		if _, ok := object[member]; !ok {
			f.fail("%s: missing member %q", name, member)
		}
	}
	for member := range object {
		if !slices.Contains(required, member) && !slices.Contains(optional, member) {
			f.fail("%s: unknown member %s", name, Shown(member))
		}
	}
	return f
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = Malformed(format, args...)
	}
}

func (f *fields) keep(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *fields) has(member string) bool {
	_, ok := f.object[member]
	return ok
}

// text is a string of valid Unicode and at most so many bytes.
func (f *fields) text(member string, most int) string {
	text, ok := f.object[member].(string)
	if !ok || !utf8.ValidString(text) {
		f.fail("%s: not a string of valid Unicode", member)
		return ""
	}
	if len(text) > most {
		f.fail("%s: %d bytes, at most %d", member, len(text), most)
		return ""
	}
	return text
}

// integer is a number from 0 to FileBytes.
func (f *fields) integer(member string) int64 {
	number, ok := f.object[member].(int64)
	if !ok || number < 0 || number > FileBytes {
		f.fail("%s: not an integer from 0 to %d", member, int64(FileBytes))
		return 0
	}
	return number
}

// bytes is base64url of exactly size bytes, or of at most -size for a negative one. The value never stands in the error.
func (f *fields) bytes(member string, size int) []byte {
	text, ok := f.object[member].(string)
	if !ok {
		f.fail("%s: not a string", member)
		return nil
	}
	data, err := Unbase64url(text, member)
	switch {
	case err != nil:
		f.keep(err)
	case size >= 0 && len(data) != size:
		f.fail("%s: %d bytes, must be %d", member, len(data), size)
	case size < 0 && len(data) > -size:
		f.fail("%s: %d bytes, at most %d", member, len(data), -size)
	}
	return data
}
