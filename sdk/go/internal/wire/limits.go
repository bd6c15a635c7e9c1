// SPDX-License-Identifier: Apache-2.0

// Package wire has the bytes of the CLF protocol: strict JSON and base64url, names, requests, JWS, JWE, grants, sealed
// bodies and the documents in them. It does no input or output. spec/protocol.md says what all of it means.
package wire

// The protocol's limits (spec/protocol.md, section 21); bytes unless the name says otherwise.
const (
	RequestBytes      = 8 * 1024
	QuoteBytes        = 16 * 1024
	TransferBodyBytes = 40 * 1024
	CommitBodyBytes   = 256 * 1024
	JSONDepth         = 4
	PathBytes         = 1024
	SegmentBytes      = 255
	KeyNameBytes      = 64
	KeyBytes          = 4 * 1024
	GrantBytes        = 16 * 1024
	ProblemBytes      = 16 * 1024
	PartBytes         = 64 * 1024 * 1024
	CommitInputs      = 1000
	NonceBytes        = 16
	RunBytes          = 16
	ManifestEntries   = 100_000
	ManifestBytes     = 64 * 1024 * 1024
	ChallengeBytes    = 512
	FileBytes         = 1<<52 - 1

	// StatusBytes bounds a status document, which has some 40 bytes.
	StatusBytes = 1024
	// LineBytes bounds one line of a manifest or commit: the longest path, escaped, fits.
	LineBytes = 8 * 1024
	// AnswerBytes bounds an answer that is neither content nor manifest; grants and receipts have a few kB.
	AnswerBytes = 64 * 1024
)
