package store

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// markerPrefix begins the names of the empty files by which Pebble says which
// MANIFEST counts.
const markerPrefix = "marker.manifest."

// markerFS makes a MANIFEST durable before the marker that names it, and the new
// marker before the old one goes. Pebble creates the MANIFEST, creates the new
// marker, removes the old one and only then syncs the folder. Until then a power
// cut may leave any of the three on the disk without the others: POSIX promises
// no order. A marker of a MANIFEST that is not there costs all replicas.
//
// The marker of the format version is left alone. It names no file and moves
// seven times in a first start, under a mutex that Pebble's ticker wants too: more
// syncs there would stop the fake clock of testing/synctest on a slow disk.
type markerFS struct {
	vfs.FS
	failed func(error) // told of a failed sync, which Pebble may pass over
}

func (s *Store) pebbleFS() vfs.FS {
	return &markerFS{FS: s.fs, failed: func(err error) { pebbleLog{s}.Fatalf("syncing before a marker moves: %v", err) }}
}

// Create implements vfs.FS.
func (f *markerFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.order(name); err != nil {
		return nil, err
	}
	return f.FS.Create(name, category)
}

// Remove implements vfs.FS.
func (f *markerFS) Remove(name string) error {
	if err := f.order(name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// Unwrap implements vfs.FS.
func (f *markerFS) Unwrap() vfs.FS { return f.FS }

// order syncs the folder of a marker.
func (f *markerFS) order(name string) error {
	if !strings.HasPrefix(f.PathBase(name), markerPrefix) {
		return nil
	}
	err := syncDir(f.FS, f.PathDir(name))
	if err != nil {
		f.failed(err)
	}
	return err
}
