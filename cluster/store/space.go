package store

import "github.com/cockroachdb/pebble/v2/vfs"

// FreeSpace returns the free bytes of the disk that holds dir, or will hold it: it need
// not exist yet.
func FreeSpace(dir string) (uint64, error) {
	for {
		u, err := vfs.Default.GetDiskUsage(dir)
		parent := vfs.Default.PathDir(dir)
		if missing(err) && parent != dir {
			dir = parent
			continue
		}
		return u.AvailBytes, err
	}
}
