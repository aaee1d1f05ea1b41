package store

import (
	"errors"
	"os"
	"sync"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// What linux/aio_abi.h fixes.
const (
	cmdFdsync  = 3
	flagResfd  = 1
	maxSyncs   = 64 // on their way at once; more wait
	eventBytes = 8
)

type iocb struct {
	data   uint64
	_      [2]uint32 // key, rw_flags
	opcode uint16
	_      int16 // reqprio
	fd     uint32
	_      [4]uint64 // buf, nbytes, offset, reserved2
	flags  uint32
	resfd  uint32
}

type ioEvent struct {
	data uint64
	_    uint64 // obj
	res  int64
	_    int64 // res2
}

// asyncFS lets the kernel's workers wait for the disk (io_submit with
// IOCB_CMD_FDSYNC). An fdatasync by a thread of ours costs more than itself: Go
// takes the processor away from a thread that waits in the kernel, and its
// monitor, which sees to that, wakes every 20 µs for as long as there are such.
type asyncFS struct {
	vfs.FS
	ctx    uintptr
	resfd  uint32   // an eventfd: the kernel tells it of each sync that is over
	done   *os.File // the same, to wait for
	free   chan struct{}
	reaper sync.WaitGroup

	mu      sync.Mutex
	last    uint64                // mu; names a sync
	waiting map[uint64]chan error // mu
}

// newAsyncFS wraps the file system of the machine. Where the kernel, or what shields it
// from us, has no such call, it is returned as it is. done must not be called before all
// files are closed.
func newAsyncFS(fs vfs.FS) (wrapped vfs.FS, done func() error) {
	f := &asyncFS{FS: fs, free: make(chan struct{}, maxSyncs), waiting: map[uint64]chan error{}}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, maxSyncs, uintptr(unsafe.Pointer(&f.ctx)), 0); errno != 0 {
		return fs, nothing
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		f.destroy()
		return fs, nothing
	}
	f.resfd, f.done = uint32(fd), os.NewFile(uintptr(fd), "eventfd")
	f.reaper.Go(f.reap)
	return f, f.close
}

func nothing() error { return nil }

// Unwrap implements vfs.FS.
func (f *asyncFS) Unwrap() vfs.FS { return f.FS }

// Create implements vfs.FS.
func (f *asyncFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.Create(name, category))
}

// OpenReadWrite implements vfs.FS.
func (f *asyncFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.wrap(f.FS.OpenReadWrite(name, category, opts...))
}

// ReuseForWrite implements vfs.FS.
func (f *asyncFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.ReuseForWrite(oldname, newname, category))
}

func (f *asyncFS) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &asyncFile{file, f}, nil
}

// asyncFile is a file that is written.
type asyncFile struct {
	vfs.File
	fs *asyncFS
}

// SyncData implements vfs.File.
func (f *asyncFile) SyncData() error { return f.fs.fdatasync(f.Fd()) }

func (f *asyncFS) destroy() { _, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, f.ctx, 0, 0) }

func (f *asyncFS) close() error {
	err := f.done.Close()
	f.reaper.Wait()
	f.destroy()
	return err
}

// reap hands out what the kernel has finished, until close.
func (f *asyncFS) reap() {
	var count [eventBytes]byte
	var events [maxSyncs]ioEvent
	for {
		if _, err := f.done.Read(count[:]); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			continue
		}
		// The count may run ahead of what is there to fetch, but not fall behind.
		var now unix.Timespec
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, f.ctx, 0, maxSyncs,
			uintptr(unsafe.Pointer(&events[0])), uintptr(unsafe.Pointer(&now)), 0)
		if errno != 0 {
			continue
		}
		f.mu.Lock()
		for _, e := range events[:n] {
			var err error
			if e.res < 0 {
				err = unix.Errno(-e.res)
			}
			f.waiting[e.data] <- err
			delete(f.waiting, e.data)
		}
		f.mu.Unlock()
	}
}

// fdatasync is what fdatasync(2) is.
func (f *asyncFS) fdatasync(fd uintptr) error {
	f.free <- struct{}{}
	defer func() { <-f.free }()
	result := make(chan error, 1)
	f.mu.Lock()
	f.last++
	cb := &iocb{data: f.last, opcode: cmdFdsync, fd: uint32(fd), flags: flagResfd, resfd: f.resfd}
	f.waiting[cb.data] = result
	f.mu.Unlock()
	if n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, f.ctx, 1, uintptr(unsafe.Pointer(&cb))); n != 1 {
		f.mu.Lock()
		delete(f.waiting, cb.data)
		f.mu.Unlock()
		if errno == 0 {
			errno = unix.EAGAIN
		}
		return errno
	}
	return <-result
}
