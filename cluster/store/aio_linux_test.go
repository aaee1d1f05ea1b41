package store

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// More syncs at once than the kernel is given room for all end, and one that cannot
// succeed says why.
func TestAsyncSync(t *testing.T) {
	fs, done := newAsyncFS(vfs.Default)
	async, ok := fs.(*asyncFS)
	if !ok {
		t.Fatal("this kernel knows no asynchronous fdatasync")
	}
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 3 * maxSyncs {
		wg.Go(func() {
			f, err := fs.Create(filepath.Join(dir, string(rune('a'+i%26))+string(rune('a'+i/26))), vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := f.Write([]byte("data")); err != nil {
				t.Error(err)
			}
			if err := f.SyncData(); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	r, w, err := os.Pipe()
	must(t, err)
	for _, f := range []*os.File{r, w} { // a pipe cannot be synced
		if err := async.fdatasync(f.Fd()); !errors.Is(err, unix.EINVAL) {
			t.Errorf("syncing a pipe: %v", err)
		}
		must(t, f.Close())
	}
	must(t, done())
}
