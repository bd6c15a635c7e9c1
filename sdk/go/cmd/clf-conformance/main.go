// SPDX-License-Identifier: Apache-2.0

// Command clf-conformance is this SDK as the conformance runner drives every client (conformance/README.md).
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	clf "github.com/cross-language-framework/clf-go"
	"github.com/cross-language-framework/clf-go/internal/vectors"
	"github.com/cross-language-framework/clf-go/problem"
)

var errUsage = errors.New("usage: clf-conformance --url URL --ca FILE --identity THUMB [--timeout SECONDS] COMMAND ...")

// commands by name, with the number of their arguments.
var commands = map[string]struct {
	arguments int
	run       func(context.Context, *clf.Owner, []string) error
}{
	"get":    {2, get},
	"range":  {3, getRange},
	"reads":  {3, reads},
	"list":   {1, list},
	"folder": {2, folder},
	"put":    {2, put},
	"abort":  {2, abort},
	"key":    {1, key},
	"many":   {2, many},
}

func main() {
	err := run(os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		code := string(problem.CodeOf(err))
		if code == "" {
			code = "error"
		}
		line, _ := json.Marshal(map[string]string{"code": code, "message": err.Error()})
		fmt.Fprintln(os.Stderr, string(line))
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("clf-conformance", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	url := flags.String("url", "", "")
	ca := flags.String("ca", "", "")
	identity := flags.String("identity", "", "")
	timeout := flags.Float64("timeout", 60, "")
	if err := flags.Parse(arguments); err != nil || flags.NArg() == 0 {
		return errUsage
	}
	name, rest := flags.Arg(0), flags.Args()[1:]
	if name == "vector" && len(rest) > 0 {
		for _, file := range rest {
			if err := vector(file); err != nil {
				return err
			}
		}
		return nil
	}
	command, ok := commands[name]
	if !ok || len(rest) != command.arguments || *url == "" || *ca == "" || *identity == "" {
		return errUsage
	}
	owner, err := clf.Connect(*url, &clf.Options{
		CAFile: *ca, Identities: []string{*identity}, Timeout: time.Duration(*timeout * float64(time.Second)),
	})
	if err != nil {
		return err
	}
	defer owner.Close()
	return command.run(context.Background(), owner, rest)
}

func print(value any) error {
	line, err := json.Marshal(value)
	if err == nil {
		_, err = fmt.Println(string(line))
	}
	return err
}

func number(text string) (int64, error) {
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil || value < 0 {
		return 0, errUsage
	}
	return value, nil
}

func save(r io.Reader, file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Close())
}

func get(ctx context.Context, owner *clf.Owner, a []string) error {
	r, err := owner.Open(ctx, a[0])
	if err != nil {
		return err
	}
	defer r.Close()
	return save(r, a[1])
}

func getRange(ctx context.Context, owner *clf.Owner, a []string) error {
	offset, err := number(a[1])
	if err != nil {
		return err
	}
	length, err := number(a[2])
	if err != nil {
		return err
	}
	r, err := owner.OpenRange(ctx, a[0], offset, length)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data)
	return err
}

func reads(ctx context.Context, owner *clf.Owner, a []string) error {
	count, err := number(a[1])
	if err != nil {
		return err
	}
	size, err := number(a[2])
	if err != nil {
		return err
	}
	r, err := owner.Open(ctx, a[0])
	if err != nil {
		return err
	}
	defer r.Close()
	digest, buffer := sha256.New(), make([]byte, size)
	for i := range count {
		if _, err := r.ReadAt(buffer, i*7919*size%(r.Size()-size+1)); err != nil {
			return err
		}
		digest.Write(buffer)
	}
	return print(map[string]string{"sha256": hex.EncodeToString(digest.Sum(nil))})
}

func list(ctx context.Context, owner *clf.Owner, a []string) error {
	entries, err := owner.List(ctx, a[0])
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	for _, e := range entries {
		line := struct {
			Path     string `json:"path"`
			Size     int64  `json:"size"`
			Etag     string `json:"etag"`
			Modified int64  `json:"modified"`
		}{e.Path, e.Size, e.Etag, e.Modified}
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return out.Flush()
}

func folder(ctx context.Context, owner *clf.Owner, a []string) error {
	f, err := owner.OpenFolder(ctx, a[0])
	if err != nil {
		return err
	}
	defer f.Close()
	for _, e := range f.Entries() {
		// Paths of the protocol's grammar have no "..", no absolute ones and no backslashes.
		target := filepath.Join(a[1], filepath.FromSlash(e.Path))
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		r, err := f.Open(ctx, e.Path)
		if err != nil {
			return err
		}
		err = save(r, target)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

func upload(ctx context.Context, owner *clf.Owner, file, path string) (*clf.Writer, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	w, err := owner.Create(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, struct{ io.Reader }{in}); err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

func put(ctx context.Context, owner *clf.Owner, a []string) error {
	w, err := upload(ctx, owner, a[0], a[1])
	if err != nil {
		return err
	}
	receipt, err := w.Commit(ctx)
	if err != nil {
		return err
	}
	return print(struct {
		ID        string `json:"id"`
		Size      int64  `json:"size"`
		SHA256    string `json:"sha256"`
		Committed int64  `json:"committed"`
	}{receipt.ID, receipt.Size, receipt.SHA256, receipt.Committed})
}

func abort(ctx context.Context, owner *clf.Owner, a []string) error {
	w, err := upload(ctx, owner, a[0], a[1])
	if err != nil {
		return err
	}
	w.Abort()
	return nil
}

func key(ctx context.Context, owner *clf.Owner, a []string) error {
	data, err := owner.Key(ctx, a[0])
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data)
	return err
}

func many(ctx context.Context, owner *clf.Owner, a []string) error {
	count, err := number(a[1])
	if err != nil {
		return err
	}
	digests, failures := make([]string, count), make([]error, count)
	var group sync.WaitGroup
	for i := range count {
		group.Go(func() {
			r, err := owner.Open(ctx, a[0])
			if err != nil {
				failures[i] = err
				return
			}
			defer r.Close()
			digest := sha256.New()
			_, failures[i] = io.Copy(digest, r)
			digests[i] = hex.EncodeToString(digest.Sum(nil))
		})
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	for _, digest := range digests {
		if digest != digests[0] {
			return problem.New(problem.Integrity, "reads of one file differ")
		}
	}
	if count == 0 {
		return errUsage
	}
	return print(map[string]string{"sha256": digests[0]})
}

func vector(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	outcome, err := vectors.Run(content)
	if err != nil {
		return err
	}
	if outcome.Skipped != "" {
		outcome.Result = ""
	}
	if outcome.Differs != "" {
		fmt.Fprintf(os.Stderr, "%s: %s\n", filepath.Base(file), outcome.Differs)
	}
	return print(outcome)
}
