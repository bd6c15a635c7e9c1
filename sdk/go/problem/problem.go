// SPDX-License-Identifier: Apache-2.0

// Package problem has the errors of the CLF protocol: every code that an owner's server answers with, and those that a
// client gives itself.
//
// A [Code] is an error, so programs branch with errors.Is:
//
//	if errors.Is(err, problem.NotAuthorised) { ... }
//
// An error that a server answered is a statement of whoever answered. It is not sealed and proves nothing: not that a
// file is absent, not that a result was or was not stored (spec/protocol.md, section 20).
package problem

import (
	"errors"
	"strings"
	"time"
)

// Code is the stable name of a failure, meant for programs.
type Code string

// Error makes a code usable with errors.Is.
func (c Code) Error() string { return string(c) }

// Codes that servers answer with.
const (
	Malformed             Code = "malformed"
	NotFound              Code = "not_found"
	MethodNotAllowed      Code = "method_not_allowed"
	VersionUnknown        Code = "version_unknown"
	AudienceUnknown       Code = "audience_unknown"
	ChallengeInvalid      Code = "challenge_invalid"
	ChallengeExpired      Code = "challenge_expired"
	EvidenceInvalid       Code = "evidence_invalid"
	EvidenceSimulated     Code = "evidence_simulated"
	EvidenceNotSimulated  Code = "evidence_not_simulated"
	CollateralUnavailable Code = "collateral_unavailable"
	NotAuthorised         Code = "not_authorised"
	LimitReached          Code = "limit_reached"
	NoSuchFile            Code = "no_such_file"
	NoSuchKey             Code = "no_such_key"
	VersionMismatch       Code = "version_mismatch"
	RangeInvalid          Code = "range_invalid"
	TooManyEntries        Code = "too_many_entries"
	TooLarge              Code = "too_large"
	ResultExists          Code = "result_exists"
	SourceChanged         Code = "source_changed"
	OffsetConflict        Code = "offset_conflict"
	WriterBusy            Code = "writer_busy"
	BodyInvalid           Code = "body_invalid"
	CommitMismatch        Code = "commit_mismatch"
	QuotaExceeded         Code = "quota_exceeded"
	StorageFull           Code = "storage_full"
	TokenInvalid          Code = "token_invalid"
	TransferUnknown       Code = "transfer_unknown"
	TransferClosed        Code = "transfer_closed"
	TransferExpired       Code = "transfer_expired"
	TransferRevoked       Code = "transfer_revoked"
	Busy                  Code = "busy"
	RateLimited           Code = "rate_limited"
	Internal              Code = "internal"
)

// Codes that the client gives itself. Malformed is used for malformed answers, too.
const (
	UnexpectedAnswer    Code = "unexpected_answer"     // somebody answered who does not speak this protocol
	IdentityUnknown     Code = "identity_unknown"      // the server's identity key is none of the pinned ones
	SignatureInvalid    Code = "signature_invalid"     // not signed by the pinned key
	WrongRequest        Code = "wrong_request"         // an answer to another request
	WrongKey            Code = "wrong_key"             // sealed for another key, or altered
	Integrity           Code = "integrity"             // bytes that were altered, or sealed by somebody else
	Truncated           Code = "truncated"             // a message that ended too early, authentic so far
	Unreachable         Code = "unreachable"           // nobody answered in time
	CertificateRefused  Code = "certificate_untrusted" // the server's certificate is not of the pinned CA
	TLSRefused          Code = "tls_refused"           // the server does not speak TLS 1.3
	CommitUnknown       Code = "commit_unknown"        // a commit was sent and not answered
	UploadLost          Code = "upload_lost"           // the owner holds fewer bytes than it acknowledged
	NotCommitted        Code = "not_committed"         // a writer was closed without a commit
	TooManyInputs       Code = "too_many_inputs"       // more inputs than a commit takes
	OwnerUnlisted       Code = "owner_unlisted"        // no owner that the measured configuration lists
	ConfigInvalid       Code = "config_invalid"        // what the app or its configuration says is wrong
	AttesterUnavailable Code = "attester_unavailable"  // this machine or process cannot produce evidence
	Misuse              Code = "misuse"                // a reader or writer was used in a way that it cannot be
	Cancelled           Code = "cancelled"             // the caller's context ended
)

// Advice is what the protocol says a client does about an error.
type Advice string

// The protocol's advices.
const (
	Stop   Advice = "stop"   // give up and tell a person
	Retry  Advice = "retry"  // the same again after a pause
	Attest Advice = "attest" // open a new transfer
	Status Advice = "status" // ask for the sealed status of the write and go on from there
)

type known struct {
	status int
	title  string
	advice Advice
}

var codes = map[Code]known{
	Malformed:             {400, "The request does not follow the protocol", Stop},
	NotFound:              {404, "There is no such resource", Stop},
	MethodNotAllowed:      {405, "The resource does not do that", Stop},
	VersionUnknown:        {404, "The server does not speak this version", Stop},
	AudienceUnknown:       {403, "The request is meant for another owner", Stop},
	ChallengeInvalid:      {401, "This owner did not issue the challenge", Attest},
	ChallengeExpired:      {401, "The challenge is too old", Attest},
	EvidenceInvalid:       {403, "The evidence does not prove an enclave for this request", Stop},
	EvidenceSimulated:     {403, "Simulated evidence, and this owner accepts real hardware only", Stop},
	EvidenceNotSimulated:  {403, "Not the simulated platform that this owner accepts", Stop},
	CollateralUnavailable: {503, "The owner cannot get what it needs to verify the evidence", Retry},
	NotAuthorised:         {403, "The owner's policy does not allow this", Stop},
	LimitReached:          {403, "The grant is used up", Stop},
	NoSuchFile:            {404, "The owner serves no such file", Stop},
	NoSuchKey:             {404, "The owner holds no such key", Stop},
	VersionMismatch:       {412, "The file has another version than the one asked for", Stop},
	RangeInvalid:          {416, "The range lies outside what the transfer covers", Stop},
	TooManyEntries:        {413, "The folder has more files than one transfer takes", Stop},
	TooLarge:              {413, "More bytes than allowed", Stop},
	ResultExists:          {409, "A result of this name exists, and results are never overwritten", Stop},
	SourceChanged:         {409, "The file changed while it was read", Stop},
	OffsetConflict:        {409, "The part does not follow what was received", Status},
	WriterBusy:            {409, "Another part of this result is being received", Status},
	BodyInvalid:           {400, "The sealed part does not open", Status},
	CommitMismatch:        {409, "What was received is not what the commit says", Stop},
	QuotaExceeded:         {507, "The owner takes no more results", Stop},
	StorageFull:           {507, "The owner's disk is full", Retry},
	TokenInvalid:          {401, "The token does not open this transfer", Stop},
	TransferUnknown:       {404, "There is no such transfer", Attest},
	TransferClosed:        {410, "The transfer is closed", Attest},
	TransferExpired:       {410, "The transfer's time is over", Attest},
	TransferRevoked:       {410, "The owner withdrew the grant", Stop},
	Busy:                  {503, "The server is at its limit", Retry},
	RateLimited:           {429, "Too many requests or bytes for now", Retry},
	Internal:              {500, "A defect in the server", Retry},
}

// Answerable returns the HTTP status and title of a code that servers answer with; ok is false for any other.
func Answerable(code Code) (status int, title string, ok bool) {
	k, ok := codes[code]
	return k.status, k.title, ok
}

// Error is every error of this module. Code is for programs, the rest for people.
type Error struct {
	Code    Code
	Message string // what happened, one sentence; foreign text in it is escaped
	Remedy  string // what a person can do about it; may be empty

	Status     int           // the HTTP status where somebody answered, else 0
	Reference  string        // where the owner finds the reason in its audit log; may be empty
	RetryAfter time.Duration // how long the server asked to wait; 0 where it did not

	Cause error // what lies below; may be nil
}

// New makes an error of the client's own.
func New(code Code, message string) *Error { return &Error{Code: code, Message: message} }

// Error is the message with the remedy, if there is one.
func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString("clf: ")
	text.WriteString(e.Message)
	if e.Remedy != "" {
		text.WriteString(" (" + e.Remedy + ")")
	}
	return text.String()
}

// Unwrap gives what lies below, so that errors.Is finds context.Canceled and its like.
func (e *Error) Unwrap() error { return e.Cause }

// Is says whether the target is this error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// Advice is what the protocol says to do: that of the code where a server gave it, and of the HTTP status where
// somebody else answered. The client's own errors are not to be repeated, except Unreachable and Truncated.
func (e *Error) Advice() Advice {
	if e.Code == UnexpectedAnswer {
		if e.Status == 429 || e.Status >= 500 && e.Status <= 599 {
			return Retry
		}
		return Stop
	}
	if e.Code == Unreachable || e.Code == Truncated {
		return Retry
	}
	if k, ok := codes[e.Code]; ok && e.Status != 0 {
		return k.advice
	}
	return Stop
}

// CodeOf is the code of an error of this module, and "" of any other.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
