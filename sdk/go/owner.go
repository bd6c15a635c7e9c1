// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"context"
	"strings"

	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// Owner is one owner's server. Each call is a transfer of its own, attested anew. It is for several goroutines at once.
type Owner struct {
	name   string
	url    string
	client *client
}

// Name is the owner's name in the measured configuration, or its host's.
func (o *Owner) Name() string { return o.name }

// URL is where the owner's server is.
func (o *Owner) URL() string { return o.url }

// String names the owner.
func (o *Owner) String() string { return "clf.Owner(" + o.name + " at " + o.url + ")" }

// Open attests and gives a reader of one file. The reader works under ctx, which must live as long as it is used.
func (o *Owner) Open(ctx context.Context, path string) (*Reader, error) {
	lease, v, modified, err := o.client.openFile(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	return &Reader{ctx: ctx, lease: lease, owns: true, version: v, size: v.size, modified: modified}, nil
}

// OpenRange is Open for length bytes from offset on: the owner releases, and counts, that range alone. Position 0 of the
// reader is offset. A range that ends beyond the file is refused.
func (o *Owner) OpenRange(ctx context.Context, path string, offset, length int64) (*Reader, error) {
	if offset < 0 || length < 0 || offset > wire.FileBytes-length {
		return nil, problem.New(problem.Misuse, "offset and length are no range of a file")
	}
	lease, v, modified, err := o.client.openFile(ctx, path, &wire.Range{Offset: offset, Length: length})
	if err != nil {
		return nil, err
	}
	return &Reader{ctx: ctx, lease: lease, owns: true, version: v, start: offset, size: length, modified: modified}, nil
}

// ReadFile gives a whole file in memory.
func (o *Owner) ReadFile(ctx context.Context, path string) ([]byte, error) {
	r, err := o.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.readAll()
}

// List gives every file below a folder, at any depth, as the owner sealed it. "/" is the owner's whole folder.
func (o *Owner) List(ctx context.Context, folder string) ([]Entry, error) {
	t, entries, err := o.client.openManifest(ctx, wire.ActionList, folderName(folder))
	if err != nil {
		return nil, err
	}
	o.client.end(t)
	return entries, nil
}

// OpenFolder opens everything below a folder with one attestation. The folder works under ctx.
func (o *Owner) OpenFolder(ctx context.Context, folder string) (*Folder, error) {
	name := folderName(folder)
	lease, entries, err := o.client.openFolder(ctx, name)
	if err != nil {
		return nil, err
	}
	return &Folder{ctx: ctx, lease: lease, path: name, entries: entries}, nil
}

// Create gives a writer of a new result; nil options will do. The writer works under ctx. The result is published by
// Commit alone.
func (o *Owner) Create(ctx context.Context, path string, options *CreateOptions) (*Writer, error) {
	return o.client.create(ctx, path, options)
}

// Key gives a key that the owner releases by name. It cannot be called back: keep it in memory and use it shortly.
func (o *Owner) Key(ctx context.Context, name string) ([]byte, error) {
	if err := wire.CheckKeyName(name); err != nil {
		return nil, err
	}
	_, grant, err := o.client.negotiate(ctx, wire.Request{Action: wire.ActionKey, Name: name})
	if err != nil {
		return nil, err
	}
	return grant.Key, nil
}

// Close waits a moment for transfers that are being closed, and closes idle connections. What is open goes on with new
// ones. It never fails.
func (o *Owner) Close() error {
	o.client.ended()
	o.client.transport.CloseIdleConnections()
	return nil
}

func folderName(folder string) string {
	if strings.HasSuffix(folder, "/") {
		return folder
	}
	return folder + "/"
}
