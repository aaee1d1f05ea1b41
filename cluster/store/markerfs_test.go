package store

import (
	"errors"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A marker of Pebble's moves only when the MANIFEST that it names is durable, and
// the old one goes only when the new one is: a power cut in between, on a disk
// that keeps no order, leaves one that holds.
func TestMarkerMovesAfterWhatItNames(t *testing.T) {
	var mu sync.Mutex
	unsynced, moves := map[string]bool{}, 0
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		name := path.Base(op.Path)
		marker := strings.HasPrefix(name, markerPrefix)
		switch {
		case isSync(op) && op.Path == "data/log":
			clear(unsynced)
		case marker && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpRemove):
			moves++
			if len(unsynced) > 0 {
				t.Errorf("%v of %s while %v may still be lost", op.Kind, name, unsynced)
			}
		}
		if op.Kind == errorfs.OpCreate && (marker || strings.HasPrefix(name, "MANIFEST-")) {
			unsynced[name] = true
		}
		return nil
	}))
	for i := range uint64(3) {
		s := mustOpen(t, fs)
		must(t, mustGroup(t, s, 1).StoreLogs(entries(i+1, i+1, 1)))
		must(t, s.Close())
	}
	mu.Lock()
	defer mu.Unlock()
	if moves < 5 {
		t.Fatalf("markers moved only %d times", moves)
	}
}

// A folder that cannot be synced before the old marker goes ends the process,
// though Pebble takes a failed removal lightly.
func TestFailedSyncBeforeMarkerIsFatal(t *testing.T) {
	fs, on := failing(vfs.NewMem(), syscall.EIO, func(op errorfs.Op) bool { return isSync(op) && op.Path == "data/log" })
	var f fatals
	s := mustOpen(t, fs, func(o *Options) { o.Fatal = f.add })
	defer s.Close()
	on.Store(true)
	if err := s.pebbleFS().Remove("data/log/marker.manifest.000001.MANIFEST-000001"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Remove = %v", err)
	}
	on.Store(false)
	if errs := f.get(); len(errs) != 1 || !errors.Is(errs[0], syscall.EIO) {
		t.Fatalf("Fatal was called with %v", errs)
	}
}
