//go:build !linux

package store

import "github.com/cockroachdb/pebble/v2/vfs"

func newAsyncFS(fs vfs.FS) (wrapped vfs.FS, done func() error) {
	return fs, func() error { return nil }
}
