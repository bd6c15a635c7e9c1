// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/cross-language-framework/clf-go/problem"
)

// cut is one try that ended without a whole answer; callers see it only below an Unreachable.
type cut struct {
	why   string
	cause error
}

func (c *cut) Error() string { return c.why }
func (c *cut) Unwrap() error { return c.cause }

var errStalled = errors.New("no progress")

// attempts is the patience of one operation. Progress is a byte that was verified or durably acknowledged, nothing else:
// a server that drips bytes, answers "busy" or cuts every connection holds an enclave no longer than the timeout.
type attempts struct {
	timeout  time.Duration
	failures int   // since the last progress
	reopened int   // transfers opened anew since then
	refused  error // what ended the try before this one, where somebody answered
	moves    atomic.Int32
	until    atomic.Int64 // monotonic nanoseconds since began
	began    time.Time
}

func newAttempts(timeout time.Duration) *attempts {
	a := &attempts{timeout: timeout, began: time.Now()}
	a.progress()
	return a
}

func (a *attempts) progress() {
	a.failures, a.reopened, a.refused = 0, 0, nil
	a.moves.Store(0)
	a.extend()
}

func (a *attempts) extend() { a.until.Store(int64(time.Since(a.began) + a.timeout)) }

// moving notes that a piece of an upload left. The transport calls it from a goroutine of its own.
func (a *attempts) moving() {
	if a.moves.Add(1) <= movesMost {
		a.extend()
	}
}

func (a *attempts) remaining() time.Duration {
	return time.Duration(a.until.Load()) - time.Since(a.began)
}

// guard gives a context that ends when the patience does; progress prolongs it.
func (a *attempts) guard(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var timer atomic.Pointer[time.Timer]
	check := func() {
		left := a.remaining()
		if left <= 0 {
			cancel(errStalled)
		} else if t := timer.Load(); t != nil {
			t.Reset(left)
		}
	}
	timer.Store(time.AfterFunc(max(a.remaining(), time.Millisecond), check))
	return ctx, func() {
		timer.Load().Stop()
		cancel(nil)
	}
}

// failed pauses before the next try, or gives the error of the last one. The first cut connection is tried again at
// once: servers close idle ones.
func (a *attempts) failed(ctx context.Context, err error) error {
	a.failures++
	if a.failures > movingFailuresMost {
		a.moves.Store(movesMost) // until something is acknowledged
	}
	var pause time.Duration
	var wasCut *cut
	if a.failures > 1 || !errors.As(err, &wasCut) {
		pause = min(backoffFirst<<min(a.failures-1, 16), backoffMost)
		pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // not a secret
	}
	var answer *problem.Error
	if errors.As(err, &answer) && answer.RetryAfter > 0 {
		pause = max(pause, min(answer.RetryAfter, retryAfterMost))
	}
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	if a.remaining() <= pause {
		return a.over(err)
	}
	a.refused = err
	if errors.As(err, &wasCut) {
		a.refused = nil
	}
	if pause == 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return cancelled(ctx)
	}
}

// reopen counts a transfer that ended, and pauses; the error is what the caller sees once there were too many.
func (a *attempts) reopen(ctx context.Context, err error) error {
	a.reopened++
	if a.reopened > reopenMost {
		return err
	}
	return a.failed(ctx, err)
}

// over is what the caller sees after the last try. One that was cut, perhaps by the timeout itself, says less than the
// refusal before it; two in a row say that nobody is there.
func (a *attempts) over(err error) error {
	var wasCut *cut
	if !errors.As(err, &wasCut) {
		return err
	}
	if a.refused != nil {
		return a.refused
	}
	return &problem.Error{
		Code:    problem.Unreachable,
		Message: fmt.Sprintf("no progress within %v: %s", a.timeout, wasCut.why),
		Remedy:  "is the owner's server running and reachable from here?",
		Cause:   wasCut.cause,
	}
}

func cancelled(ctx context.Context) error {
	return &problem.Error{Code: problem.Cancelled, Message: "given up by the caller", Cause: context.Cause(ctx)}
}

// adviceOf is what to do about an error: a cut connection is tried again, and foreign errors end everything.
func adviceOf(err error) problem.Advice {
	var wasCut *cut
	if errors.As(err, &wasCut) {
		return problem.Retry
	}
	var answer *problem.Error
	if errors.As(err, &answer) {
		return answer.Advice()
	}
	return problem.Stop
}
