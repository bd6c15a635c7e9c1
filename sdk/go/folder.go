// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// Entry is one file of a folder: its whole path at the owner, size in bytes, version (opaque) and time of change in
// seconds since the epoch.
type Entry = wire.Entry

// Folder is everything below a folder as it was when it was opened: attested once, for any number of files.
type Folder struct {
	ctx     context.Context
	lease   *lease
	path    string
	entries []Entry
}

// Path is the folder's name, with the slash at its end.
func (f *Folder) Path() string { return f.path }

// Entries are the files below the folder at any depth, sorted by path. The listing is complete.
func (f *Folder) Entries() []Entry { return slices.Clone(f.entries) }

// String names the folder.
func (f *Folder) String() string {
	return fmt.Sprintf("clf.Folder(%s, %d files)", wire.Shown(f.path), len(f.entries))
}

// Open gives a reader of one file, by its whole path. No request is made before something is read. A file that is not in
// the listing is NoSuchFile, and that is certain.
func (f *Folder) Open(ctx context.Context, path string) (*Reader, error) {
	i, ok := slices.BinarySearchFunc(f.entries, path, func(e Entry, path string) int { return strings.Compare(e.Path, path) })
	if !ok {
		return nil, &problem.Error{
			Code: problem.NoSuchFile, Message: wire.Shown(path) + " is not in the listing of " + wire.Shown(f.path),
			Remedy: "see Entries",
		}
	}
	return f.reader(ctx, f.entries[i]), nil
}

func (f *Folder) reader(ctx context.Context, e Entry) *Reader {
	v := version{e.Path, e.Etag, e.Size}
	return &Reader{ctx: ctx, lease: f.lease, version: v, size: e.Size, modified: &e.Modified}
}

// ReadFile gives the whole content of one file.
func (f *Folder) ReadFile(ctx context.Context, path string) ([]byte, error) {
	r, err := f.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.readAll()
}

// Input is how a result names what was read here.
func (f *Folder) Input() (Input, error) {
	t, err := f.lease.transfer(f.ctx)
	if err != nil {
		return Input{}, err
	}
	return t.input(), nil
}

// Close ends the transfer, and with it what was opened here. It does not wait for the owner, and never fails.
func (f *Folder) Close() error {
	f.lease.close()
	return nil
}
