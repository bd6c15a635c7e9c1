// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cross-language-framework/clf-go/internal/wire"
)

// FS is the folder as Go knows file systems: an fs.FS that is an fs.ReadDirFS, fs.StatFS and fs.ReadFileFS as well.
// Names are relative to the folder. Files are io.ReadSeekers and io.ReaderAts. Everything is read under the context that
// the folder was opened with, and only as long as the folder is open.
//
// What is absent here does not exist: fs.ErrNotExist comes from the owner's complete, sealed listing.
func (f *Folder) FS() fs.FS {
	tree := &tree{folder: f, nodes: map[string]*node{".": {name: "."}}}
	below := f.path
	if below == wire.Root {
		below = ""
	}
	for i := range f.entries {
		tree.add(strings.TrimPrefix(f.entries[i].Path, below), &f.entries[i])
	}
	for _, n := range tree.nodes {
		slices.SortFunc(n.children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	}
	return tree
}

// tree has the files and the folders that their names imply.
type tree struct {
	folder *Folder
	nodes  map[string]*node
}

type node struct {
	name     string // the last segment
	entry    *Entry // nil for a folder
	children []*node
}

// add makes a file and the folders above it. Where an owner has a file and a folder of one name, the file stays: it came
// first, because listings are sorted.
func (t *tree) add(name string, entry *Entry) {
	if _, ok := t.nodes[name]; ok || !fs.ValidPath(name) {
		return
	}
	n := &node{name: path.Base(name), entry: entry}
	for child := n; ; child = t.nodes[name] {
		above, known := t.nodes[path.Dir(name)]
		if known && above.entry != nil {
			return
		}
		t.nodes[name] = child
		name = path.Dir(name)
		if known {
			above.children = append(above.children, child)
			return
		}
		t.nodes[name] = &node{name: path.Base(name), children: []*node{child}}
	}
}

func (t *tree) find(operation, name string) (*node, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: operation, Path: name, Err: fs.ErrInvalid}
	}
	n, ok := t.nodes[name]
	if !ok {
		return nil, &fs.PathError{Op: operation, Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

// Open gives a file or a folder.
func (t *tree) Open(name string) (fs.File, error) {
	n, err := t.find("open", name)
	if err != nil {
		return nil, err
	}
	if n.entry == nil {
		return &openFolder{node: n}, nil
	}
	return &openFile{t.folder.reader(t.folder.ctx, *n.entry), n}, nil
}

// ReadDir gives a folder's files and folders, sorted.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := t.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if n.entry != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	return n.list(), nil
}

// Stat tells about a file or folder, from the listing.
func (t *tree) Stat(name string) (fs.FileInfo, error) {
	n, err := t.find("stat", name)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// ReadFile gives the whole content of a file.
func (t *tree) ReadFile(name string) ([]byte, error) {
	n, err := t.find("read", name)
	if err != nil {
		return nil, err
	}
	if n.entry == nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	r := t.folder.reader(t.folder.ctx, *n.entry)
	defer r.Close()
	return r.readAll()
}

func (n *node) list() []fs.DirEntry {
	found := make([]fs.DirEntry, len(n.children))
	for i, child := range n.children {
		found[i] = fs.FileInfoToDirEntry(child)
	}
	return found
}

func (n *node) Name() string { return n.name }
func (n *node) IsDir() bool  { return n.entry == nil }
func (n *node) Sys() any     { return nil }

func (n *node) Size() int64 {
	if n.entry == nil {
		return 0
	}
	return n.entry.Size
}

func (n *node) Mode() fs.FileMode {
	if n.entry == nil {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

func (n *node) ModTime() time.Time {
	if n.entry == nil {
		return time.Time{}
	}
	return time.Unix(n.entry.Modified, 0)
}

type openFile struct {
	*Reader
	node *node
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.node, nil }

type openFolder struct {
	node *node
	next int
}

func (f *openFolder) Stat() (fs.FileInfo, error) { return f.node, nil }
func (f *openFolder) Close() error               { return nil }

func (f *openFolder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: f.node.name, Err: fs.ErrInvalid}
}

func (f *openFolder) ReadDir(count int) ([]fs.DirEntry, error) {
	rest := f.node.list()[f.next:]
	if count > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(count, len(rest))]
	}
	f.next += len(rest)
	return rest, nil
}
