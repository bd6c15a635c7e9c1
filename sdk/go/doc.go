// SPDX-License-Identifier: Apache-2.0

// Package clf lets a program inside a trusted execution environment read files from their owners, and give results back.
//
// Each owner runs a server of the Cross-Language Framework for confidential computing. What is read is released to
// attested programs alone: for every transfer the program proves by fresh evidence what it is, and the owner's answer is
// encrypted for that program only. TLS protects the connection; confidentiality does not rest on it.
//
//	owner, err := clf.Connect("hospital-a", nil)
//	...
//	file, err := owner.Open(ctx, "patients/2024.csv")
//	...
//	defer file.Close()
//	table, err := csv.NewReader(file).ReadAll()
//
// A result is published when it is committed, and not before:
//
//	result, err := owner.Create(ctx, "reports/model.json", nil)
//	...
//	defer result.Close() // gives it up if Commit was not reached
//	if err := json.NewEncoder(result).Encode(model); err != nil { ... }
//	receipt, err := result.Commit(ctx)
//
// Only verified bytes are ever handed out. Cut connections and restarted servers are gone over silently: reading goes on
// at the last verified byte, writing at the last byte that the owner holds durably. A file that changes meanwhile is an
// error and never a mixture of versions. An operation gives up when it makes no progress for the owner's timeout.
//
// Errors are [problem.Error]; branch on their code with errors.Is(err, problem.NotAuthorised). What a server answers is
// a statement of whoever answered and proves nothing: that a file is absent is known from a complete listing alone.
//
// An [Owner], [Reader] and [Folder] may be used by several goroutines at once, a [Writer] by one.
package clf
