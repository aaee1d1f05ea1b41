package sim

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/flotilla-mqtt/flotilla/cluster/store"
)

// Disk is the disk of a simulated host: it forgets what was not synced, can stall, run
// full and lie. Its methods may be called while a process uses it, unless they say
// otherwise.
type Disk struct {
	mem *vfs.MemFS // replaced only while no process uses it

	mu      sync.Mutex
	free    uint64        // bytes; guarded by mu
	full    bool          // guarded by mu
	stalled chan struct{} // guarded by mu; not nil: syncs wait for its end

	earlier *vfs.MemFS // the last Remember; of the goroutine that breaks the disk
}

// ampleSpace is what a disk has free unless a test says otherwise.
const ampleSpace = 1 << 40

func newDisk() *Disk { return &Disk{mem: vfs.NewCrashableMem(), free: ampleSpace} }

// files is the file system that a process sees.
func (d *Disk) files() vfs.FS {
	return sized{errorfs.Wrap(d.mem, errorfs.InjectorFunc(d.fault)), d}
}

// sized tells how much space is left, which MemFS does not.
type sized struct {
	vfs.FS
	d *Disk
}

func (s sized) GetDiskUsage(string) (vfs.DiskUsage, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: s.d.free, TotalBytes: ampleSpace, UsedBytes: ampleSpace - s.d.free}, nil
}

func (s sized) Unwrap() vfs.FS { return s.FS }

// fault holds up or fails one operation.
func (d *Disk) fault(op errorfs.Op) error {
	d.mu.Lock()
	full, stalled := d.full, d.stalled
	d.mu.Unlock()
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		if stalled != nil {
			<-stalled
		}
	case errorfs.OpCreate, errorfs.OpMkdirAll, errorfs.OpFileWrite, errorfs.OpFilePreallocate:
		if full {
			return &errOp{op.Path, syscall.ENOSPC}
		}
	}
	return nil
}

type errOp struct {
	path string
	err  error
}

func (e *errOp) Error() string { return e.path + ": " + e.err.Error() }
func (e *errOp) Unwrap() error { return e.err }

// SetFree says how many bytes are free. None: whatever needs new space fails.
func (d *Disk) SetFree(bytes uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free, d.full = bytes, bytes == 0
}

// Stall makes every sync wait until Resume.
func (d *Disk) Stall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stalled == nil {
		d.stalled = make(chan struct{})
	}
}

// Resume ends Stall.
func (d *Disk) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stalled != nil {
		close(d.stalled)
		d.stalled = nil
	}
}

// Wipe puts an empty disk in the place of this one. No process may use it.
func (d *Disk) Wipe() { d.mem = vfs.NewCrashableMem() }

// Remember notes what is durable now, for RollBackLog.
func (d *Disk) Remember() { d.earlier = d.mem.CrashClone(vfs.CrashCloneCfg{}) }

// RollBackLog makes the log store what it was at the last Remember; all else stays. No
// process may use the disk.
func (d *Disk) RollBackLog() {
	err := d.mem.RemoveAll("/data/log")
	if err == nil {
		_, err = vfs.Clone(d.earlier, d.mem, "/data/log", "/data/log", vfs.CloneSync)
	}
	if err == nil {
		var dir vfs.File
		if dir, err = d.mem.OpenDir("/data"); err == nil {
			err = errors.Join(dir.Sync(), dir.Close())
		}
	}
	if err != nil {
		panic(err) // in memory nothing fails
	}
}

// Store opens the data folder for a moment. No process may use the disk.
func (d *Disk) Store(use func(*store.Store) error) error {
	s, err := store.Open(store.Options{Dir: "/data", FS: d.mem, Repair: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return errors.Join(use(s), s.Close())
}

// Remove deletes a file or folder of the data folder. No process may use it.
func (d *Disk) Remove(path string) error { return d.mem.RemoveAll("/data/" + path) }

// ErrNothingThere is returned by Damage when no file fits.
var ErrNothingThere = errors.New("sim: no such file")

// Damage changes the first file below the data folder whose path contains part:
// change gets its content and returns the new one. No process may use the disk.
func (d *Disk) Damage(part string, change func([]byte) []byte) error {
	path, err := d.find("/data", part)
	if err != nil {
		return err
	}
	f, err := d.mem.Open(path)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	w, err := d.mem.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = w.Write(change(b))
	return errors.Join(err, w.Sync(), w.Close())
}

func (d *Disk) find(dir, part string) (string, error) {
	names, err := d.mem.List(dir)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		path := d.mem.PathJoin(dir, name)
		info, err := d.mem.Stat(path)
		if err != nil {
			return "", err
		}
		if info.IsDir() {
			if found, err := d.find(path, part); err == nil || !errors.Is(err, ErrNothingThere) {
				return found, err
			}
		} else if strings.Contains(path, part) && info.Size() > 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s below %s", ErrNothingThere, part, dir)
}
