// SPDX-License-Identifier: Apache-2.0

package clf

import "time"

const (
	// defaultTimeout is how long an operation goes on without progress: without a byte verified or acknowledged.
	defaultTimeout = 60 * time.Second
	connectTimeout = 10 * time.Second
	// closeTimeout bounds closing a transfer, which is a courtesy: the owner's idle limit does the same.
	closeTimeout   = 5 * time.Second
	idleConnection = 30 * time.Second

	// Pauses double up to the second, each shortened by chance to between half and the whole.
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 5 * time.Second
	// retryAfterMost is what a server can make an enclave wait by one answer.
	retryAfterMost = 30 * time.Second
	// reopenMost bounds new transfers in a row that bring not one byte: whoever forges "expired" must not spend the
	// owner's limits.
	reopenMost = 5
	// movesMost bounds how often a piece that left counts as movement before one is acknowledged: a slow link may take
	// a whole part, but a server that swallows bytes does not hold the enclave for ever.
	movesMost = 512
	// movingFailuresMost is the number of failures in a row after which they no longer count: a part that is refused
	// again and again moves nothing.
	movingFailuresMost = 3

	connectionsMost = 16
	fieldsBytes     = 64 * 1024 // header fields of an answer
	configBytes     = 1024 * 1024

	// Read-ahead doubles while reads follow each other. One open file holds at most aheadWindows windows.
	aheadFirst   = 64 * 1024
	aheadMost    = 8 * 1024 * 1024
	aheadWindows = 4
	// directBytes: from here on read-ahead would only be one copy more. After so many bytes in order, Read asks for all
	// that is left.
	directBytes = 1024 * 1024
	// Such a request is aheadPieces pieces ahead of Read, and there are so many of them to one owner at once.
	pieceBytes    = 256 * 1024
	aheadPieces   = 4
	stretchesMost = 16
	// wholeFirst is how much of a file is made room for at once; more follows as verified bytes arrive, so that nobody
	// who lies about a size uses up memory.
	wholeFirst = 64 * 1024 * 1024

	partBytes      = 32 * 1024 * 1024
	partLeastBytes = 16 * 1024
	// wholePartBytes gathered, a writer takes memory for a whole part.
	wholePartBytes = 1024 * 1024
)
