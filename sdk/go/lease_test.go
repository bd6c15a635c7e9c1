// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"testing"

	"github.com/cross-language-framework/clf-go/problem"
)

// waited is a context that tells whenever somebody is about to wait for it.
type waited struct {
	context.Context //nolint:containedctx // it is one
	when            chan struct{}
}

func (w waited) Done() <-chan struct{} {
	w.when <- struct{}{}
	return w.Context.Done()
}

// locateAtOnce has that many goroutines ask a lease whose transfer is over; the first one opens the next when all others
// wait for it.
func locateAtOnce(ctx context.Context, count int, open func(number int) (*transfer, error)) (opened int, errs []error) {
	waits, ends := make(chan struct{}, 2*count), make(chan error, count)
	l := newLease(nil)
	l.live = &transfer{}
	l.live.ended.Store(true)
	l.index = func(version) (int, bool) { return 0, true }
	l.reopen = func(context.Context) (*transfer, error) {
		if opened++; opened == 1 {
			for range count {
				<-waits
			}
		}
		return open(opened)
	}
	for range count {
		go func() {
			_, _, err := l.locate(waited{ctx, waits}, version{})
			ends <- err
		}()
	}
	for range count {
		errs = append(errs, <-ends)
	}
	return opened, errs
}

// Where a transfer ended and the owner cannot be had, all who wait for the next one know after one try, not after one each.
func TestWaitingForOneOpeningSharesItsFailure(t *testing.T) {
	opened, errs := locateAtOnce(ctx, 8, func(int) (*transfer, error) {
		return nil, problem.New(problem.NotAuthorised, "not any more")
	})
	if opened != 1 {
		t.Errorf("%d openings", opened)
	}
	for _, err := range errs {
		wantCode(t, err, problem.NotAuthorised)
	}
}

// The one that opens may be given up by its own caller; the others want the transfer all the same.
func TestGivingUpSpeaksForNobodyElse(t *testing.T) {
	l := newLease(nil)
	l.index = func(version) (int, bool) { return 0, true }
	gone, cancel := context.WithCancel(ctx)
	defer cancel()
	come := make(chan struct{})
	l.reopen = func(c context.Context) (*transfer, error) {
		if c == gone {
			<-come
			cancel()
			return nil, cancelled(c)
		}
		return &transfer{}, nil
	}
	first, second := make(chan error, 1), make(chan error, 1)
	holds := make(chan struct{}, 10)
	go func() {
		l.lock <- struct{}{} // as acquire does, so that the order is certain
		holds <- struct{}{}
		_, err := l.current(gone, 0)
		l.release()
		first <- err
	}()
	<-holds
	go func() {
		_, _, err := l.locate(waited{ctx, holds}, version{})
		second <- err
	}()
	<-holds
	close(come)
	wantCode(t, <-first, problem.Cancelled)
	if err := <-second; err != nil {
		t.Error(err)
	}
}
