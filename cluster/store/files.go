package store

import (
	"errors"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// writeFileSync replaces path by a file with data: written under a temporary
// name, synced, renamed, and the folder synced. A failure leaves the old file.
func writeFileSync(fsys vfs.FS, dir, path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := fsys.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	// vfs.File.Write may scribble on its argument.
	_, err = f.Write(append([]byte(nil), data...))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err != nil {
		// Best effort: a leftover temporary file is overwritten next time.
		return errors.Join(err, ignoreMissing(fsys.Remove(tmp)))
	}
	return syncDir(fsys, dir)
}

func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// syncDir makes what was created, renamed or removed in dir durable.
func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func exists(fsys vfs.FS, path string) (bool, error) {
	_, err := fsys.Stat(path)
	if missing(err) {
		return false, nil
	}
	return err == nil, err
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func ignoreMissing(err error) error {
	if missing(err) {
		return nil
	}
	return err
}

// lock is a mutex on a channel. It is held across disk I/O, where a sync.Mutex
// would keep the fake clock of testing/synctest from moving.
type lock chan struct{}

func newLock() lock    { return make(lock, 1) }
func (l lock) Lock()   { l <- struct{}{} }
func (l lock) Unlock() { <-l }
