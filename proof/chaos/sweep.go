//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tag begins the name of everything that a process of this package makes: network interfaces,
// namespaces, control groups and the folder with images and data. It is short because names of
// interfaces must be.
func tag(pid int) string { return fmt.Sprintf("flc%d", pid) }

var tagged = regexp.MustCompile(`(?:^|/)flc([0-9]+)(?:n[0-9]+)?(?:/|$)`)

// taggedBy returns the pid in a tagged name or path.
func taggedBy(name string) (int, bool) {
	m := tagged.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	pid, err := strconv.Atoi(m[1])
	return pid, err == nil
}

// dead says whether no process has the pid, or one that has ended and that nobody has asked for.
func dead(pid int) bool {
	state := processState(pid)
	return state == "" || state == "Z" || state == "X"
}

// processState is the letter that the kernel has for it (man proc_pid_stat); "": there is none.
func processState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(b), ") ")
	state, _, _ := strings.Cut(after, " ")
	return state
}

// sweep removes what was made by processes that of names. Nothing of theirs may run any more.
func sweep(of func(pid int) bool) error {
	ours := func(name string) bool {
		pid, ok := taggedBy(name)
		return ok && of(pid)
	}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	for _, dir := range mounts() {
		if ours(dir) {
			_ = thaw(dir) // it is frozen only if a run was cut short
			note(wrap("unmount "+dir, unmount(dir)))
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is good
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && ours(strings.TrimSpace(string(b))) {
			note(command("losetup", "-d", "/dev/"+strings.Split(f, "/")[3]))
		}
	}
	// Before the namespaces, which take the links into them along, at a time of their own.
	for _, name := range names("/sys/class/net") {
		if ours(name) {
			note(command("ip", "link", "del", name))
		}
	}
	for _, name := range names("/run/netns") {
		if ours(name) {
			note(command("ip", "netns", "del", name))
		}
	}
	for _, root := range cgroupRoots() {
		for _, name := range names(root) {
			if ours(name) {
				note(removeCgroup(filepath.Join(root, name)))
			}
		}
	}
	for _, name := range names(os.TempDir()) {
		if ours(name) {
			note(os.RemoveAll(filepath.Join(os.TempDir(), name)))
		}
	}
	return wrap("clean up", errors.Join(errs...))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// names lists a folder; one that is not there is empty.
func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// mounts returns all mount points of our kind, the innermost first. Namespaces are mounts, too.
func mounts() []string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "ext4" {
			out = append(out, f[1])
		}
	}
	slices.Reverse(out)
	return out
}

// unmount waits a little for processes that are on their way out.
func unmount(dir string) error {
	var err error
	for range 50 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
}

// removeCgroup waits until the kernel has let go of processes that have just ended.
func removeCgroup(dir string) error {
	var err error
	for range 50 {
		if err = unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return wrap("remove "+dir, err)
}

// commandTime bounds each command; all of them are quick.
const commandTime = 20 * time.Second

// command runs a command to its end, whatever becomes of the run, since half a change cannot
// be cleaned up. Its error has what it said.
func command(args ...string) error {
	_, err := output("", args...)
	return err
}

func output(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}
