// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cross-language-framework/clf-go/problem"
)

// Challenge is an owner's answer to POST /v1/challenges.
type Challenge struct {
	Challenge string
	ExpiresIn int64 // seconds
	Identity  PublicKey
}

// ParseChallenge reads it. Whether the identity is a pinned one is for the caller to see.
func ParseChallenge(data []byte) (*Challenge, error) {
	object, err := ParseObject(data, "challenge", AnswerBytes)
	if err != nil {
		return nil, err
	}
	f := members(object, "challenge", []string{"challenge", "expires_in", "identity"})
	c := &Challenge{Challenge: f.text("challenge", ChallengeBytes), ExpiresIn: f.integer("expires_in")}
	if c.Challenge == "" {
		f.fail("challenge: empty")
	}
	if f.err != nil {
		return nil, f.err
	}
	c.Identity, err = ParseJWK(object["identity"], "identity")
	return c, err
}

// ParseGrantAnswer gives the JWS in an answer to POST /v1/transfers.
func ParseGrantAnswer(data []byte) (string, error) {
	object, err := ParseObject(data, "answer", AnswerBytes)
	if err != nil {
		return "", err
	}
	f := members(object, "answer", []string{"grant"})
	return f.text("grant", GrantBytes), f.err
}

// OwnerLine is one line of the list of owners that the launcher makes from the measured clf.toml.
type OwnerLine struct{ Name, URL, CA, Identity, Next string }

// ParseOwners reads that list.
func ParseOwners(data []byte) ([]OwnerLine, error) {
	lines, err := lines(data, "owners", 1000)
	if err != nil {
		return nil, err
	}
	var owners []OwnerLine
	for _, line := range lines {
		object, err := ParseObject(line, "owners", LineBytes)
		if err != nil {
			return nil, err
		}
		f := members(object, "owners", []string{"name", "url", "ca", "identity", "next"})
		o := OwnerLine{f.text("name", 1024), f.text("url", 2048), f.text("ca", 4096), f.text("identity", 64), f.text("next", 64)}
		if f.err != nil {
			return nil, f.err
		}
		owners = append(owners, o)
	}
	return owners, nil
}

const detailBytes = 2048

// ParseProblem gives the error of an answer that is no success. It never fails: the body is not trusted.
func ParseProblem(status int, body []byte, retryAfter string) *problem.Error {
	object, err := ParseObject(body, "problem", ProblemBytes)
	if err != nil {
		object = Object{}
	}
	wait := retryDelay(retryAfter)
	text, _ := object["code"].(string)
	code := problem.Code(text)
	expected, title, ok := problem.Answerable(code)
	if !ok || expected != status {
		return &problem.Error{
			Code: problem.UnexpectedAnswer, Status: status, RetryAfter: wait,
			Message: fmt.Sprintf("HTTP %d that is no error of this protocol", status),
			Remedy:  "is the URL that of a CLF server, and does nothing in between answer for it?",
		}
	}
	e := &problem.Error{Code: code, Message: title, Status: status, RetryAfter: wait}
	if detail, _ := object["detail"].(string); detail != "" {
		e.Message += ": " + Readable(detail, detailBytes)
	}
	if reference, _ := object["reference"].(string); isBase64urlText(reference, 64) {
		e.Reference = reference
		e.Remedy = "the owner finds the reason under reference " + reference
	}
	return e
}

func retryDelay(text string) time.Duration {
	seconds, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// Readable is foreign text for people: at most so many bytes of it, and whatever could move a terminal's cursor escaped.
func Readable(text string, most int) string {
	var out []byte
	for i := 0; i < len(text) && i < most; {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			out = fmt.Appendf(out, `\x%02x`, text[i])
		case strconv.IsPrint(r):
			out = utf8.AppendRune(out, r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			out = append(out, quoted[1:len(quoted)-1]...)
		}
		i += size
	}
	return string(out)
}
