// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// Input is an owner and a transfer that a result was computed from. Both are hashes, so that owners learn no names of
// each other.
type Input = wire.Input

// run is made inside the enclave at its start and never taken from outside: owners count runs, and the host could repeat
// one.
var run = sync.OnceValue(func() []byte {
	made := make([]byte, wire.RunBytes)
	_, _ = rand.Read(made) // never fails: it ends the program where there is no randomness
	return made
})

// session notes what this run has read: results state what they were computed from.
var session struct {
	sync.Mutex
	order []Input
	known map[Input]bool
}

func record(input Input) {
	session.Lock()
	defer session.Unlock()
	if session.known == nil {
		session.known = map[Input]bool{}
	}
	if !session.known[input] {
		session.known[input] = true
		session.order = append(session.order, input)
	}
}

// inputs is what a result was computed from: everything that this process has read, or what the caller names. Leaving
// some out silently would be false, so too many are an error.
func inputs(chosen []Input) ([]Input, error) {
	session.Lock()
	defer session.Unlock()
	found := chosen
	if chosen == nil {
		found = append([]Input(nil), session.order...)
	}
	if len(found) > wire.CommitInputs {
		return nil, &problem.Error{
			Code:    problem.TooManyInputs,
			Message: fmt.Sprintf("%d transfers were read, and a result names at most %d inputs", len(found), wire.CommitInputs),
			Remedy:  "read folders with OpenFolder (one transfer each), or name the inputs in CreateOptions",
		}
	}
	return found, nil
}

func newNonce() []byte {
	nonce := make([]byte, wire.NonceBytes)
	_, _ = rand.Read(nonce)
	return nonce
}
