//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is a file system in a file, mounted through a loop device.
type disk struct {
	dir  string // where it is mounted
	loop string
}

// diskSize is well above disk-reserve and what a node writes in a round.
const diskSize = 2 << 30

// Requests of ioctl that x/sys does not name.
const (
	ioctlFreeze   = 0xC0045877 // FIFREEZE
	ioctlThaw     = 0xC0045878 // FITHAW
	ioctlShutdown = 0x8004587D // EXT4_IOC_SHUTDOWN
)

// How ext4 is shut down: what was not synced is written to the journal first, or is lost.
const (
	flushJournal = 1
	loseJournal  = 2
)

// newDisk makes and mounts a file system. On an error what it has made is left to sweep.
func newDisk(dir string) (*disk, error) {
	for _, tool := range []string{"losetup", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("no %s on this machine", tool)
		}
	}
	image := dir + ".img"
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close(), os.Mkdir(dir, 0o755), command("mkfs.ext4", "-q", "-F", image)); err != nil {
		return nil, err
	}
	loop, err := output("", "losetup", "-f", "--show", image)
	if err != nil {
		return nil, err
	}
	d := &disk{dir: dir, loop: strings.TrimSpace(loop)}
	return d, d.mount()
}

func (d *disk) mount() error {
	return wrap("mount "+d.loop, unix.Mount(d.loop, d.dir, "ext4", 0, ""))
}

// remount mounts anew, as after a power failure. No process may use it.
func (d *disk) remount() error {
	if err := wrap("unmount "+d.dir, unmount(d.dir)); err != nil {
		return err
	}
	return d.mount()
}

// control makes a request of the file system.
func control(dir string, request uint, argument int) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), request, argument)
	return errors.Join(wrap(fmt.Sprintf("ioctl %#x on %s", request, dir), err), f.Close())
}

// freeze holds back every write until thaw.
func (d *disk) freeze() error { return control(d.dir, ioctlFreeze, 0) }
func (d *disk) thaw() error   { return thaw(d.dir) }
func thaw(dir string) error   { return control(dir, ioctlThaw, 0) }

// shutdown has every further access fail until remount.
func (d *disk) shutdown(how int) error { return control(d.dir, ioctlShutdown, how) }

// fill leaves so many bytes free, if more are.
func (d *disk) fill(leave uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return err
	}
	free := st.Bfree * uint64(st.Bsize) // root may take the reserved blocks too
	if free <= leave {
		return nil
	}
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, int64(free-leave))
	if errors.Is(err, unix.ENOSPC) { // the node was faster
		err = nil
	}
	return errors.Join(err, f.Close())
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

func (d *disk) empty() error { return os.Remove(d.ballast()) }

// canary writes a file and does not sync it.
func (d *disk) canary() error {
	return os.WriteFile(filepath.Join(d.dir, "canary"), []byte("tweet"), 0o600)
}

// lost says whether the canary did not outlive a power failure.
func (d *disk) lost() bool {
	path := filepath.Join(d.dir, "canary")
	b, err := os.ReadFile(path)
	_ = os.Remove(path) // the next one is written anew
	return err != nil || len(b) == 0
}

// logFiles are the files under a data folder that hold logs and high-water marks.
func logFiles(data string) (out []string, err error) {
	err = filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(data, path) // path is under data
		ext := filepath.Ext(rel)
		if ext != ".log" && ext != ".sst" && !strings.HasPrefix(e.Name(), "MANIFEST") && rel != "marks" && rel != "control.bolt" {
			return nil
		}
		info, err := e.Info()
		if err == nil && info.Size() > 0 {
			out = append(out, path)
		}
		return err
	})
	return out, err
}

// flip changes single bits of some of the files, in the half where the newest data is, and says
// which.
func flip(files []string, rng *rand.Rand) (string, error) {
	var where []string
	for range 1 + rng.IntN(3) {
		path := files[rng.IntN(len(files))]
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		for range 1 + rng.IntN(16) {
			b[len(b)/2+rng.IntN((len(b)+1)/2)] ^= 1 << rng.IntN(8)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return "", err
		}
		where = append(where, filepath.Base(path))
	}
	return strings.Join(where, " "), nil
}

// shorten cuts the end off a file.
func shorten(files []string, rng *rand.Rand) (string, error) {
	path := files[rng.IntN(len(files))]
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	keep := rng.Int64N(info.Size())
	return fmt.Sprintf("%s to %d of %d bytes", filepath.Base(path), keep, info.Size()), os.Truncate(path, keep)
}
