//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// cgroup limits a node's memory and processor time, under version 1 or 2 of the kernel's
// control groups.
type cgroup struct {
	v2          bool
	memory, cpu string // folders; the same one under version 2
}

const cgroupRoot = "/sys/fs/cgroup"

// cgroupRoots are the folders in which newCgroup makes groups.
func cgroupRoots() []string {
	return []string{cgroupRoot, filepath.Join(cgroupRoot, "memory"), filepath.Join(cgroupRoot, "cpu")}
}

// newCgroup makes a group under root. On an error what it has made is left to sweep.
func newCgroup(root, name string) (*cgroup, error) {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err == nil {
		if have := strings.Fields(string(controllers)); !slices.Contains(have, "memory") || !slices.Contains(have, "cpu") {
			return nil, fmt.Errorf("no control groups for memory and cpu: have %v", have)
		}
		g := &cgroup{v2: true, memory: filepath.Join(root, name)}
		g.cpu = g.memory
		return g, errors.Join(write(root, "cgroup.subtree_control", "+memory +cpu"), os.Mkdir(g.memory, 0o755))
	}
	g := &cgroup{memory: filepath.Join(root, "memory", name), cpu: filepath.Join(root, "cpu", name)}
	return g, errors.Join(os.Mkdir(g.memory, 0o755), os.Mkdir(g.cpu, 0o755))
}

func write(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644)
}

// add puts a process into the group.
func (g *cgroup) add(pid int) error {
	err := write(g.memory, "cgroup.procs", strconv.Itoa(pid))
	if g.v2 {
		return err
	}
	return errors.Join(err, write(g.cpu, "cgroup.procs", strconv.Itoa(pid)))
}

// limitMemory sets the limit in bytes; 0: none. Version 1 refuses a limit that the kernel cannot
// get below.
func (g *cgroup) limitMemory(bytes uint64) error {
	value := strconv.FormatUint(bytes, 10)
	switch {
	case g.v2 && bytes == 0:
		value = "max"
	case bytes == 0:
		value = "-1"
	}
	if g.v2 {
		return write(g.memory, "memory.max", value)
	}
	return write(g.memory, "memory.limit_in_bytes", value)
}

// limitCPU sets how much of one processor the group gets, in percent; 0: no limit.
func (g *cgroup) limitCPU(percent int) error {
	const period = 100_000 // microseconds
	quota := percent * period / 100
	switch {
	case g.v2 && percent == 0:
		return write(g.cpu, "cpu.max", "max")
	case g.v2:
		return write(g.cpu, "cpu.max", fmt.Sprintf("%d %d", quota, period))
	case percent == 0:
		quota = -1
	}
	return write(g.cpu, "cpu.cfs_quota_us", strconv.Itoa(quota))
}

// hits counts how often the limits were met so far.
func (g *cgroup) hits() (memory, cpu int) {
	file, pattern := "memory.failcnt", failures
	if g.v2 {
		file, pattern = "memory.events", maxEvents
	}
	text, _ := os.ReadFile(filepath.Join(g.memory, file)) // no text counts as nothing
	memory = counters(string(text), pattern)
	text, _ = os.ReadFile(filepath.Join(g.cpu, "cpu.stat"))
	return memory, counters(string(text), throttled)
}

var failures, maxEvents, throttled = regexp.MustCompile(`^([0-9]+)`), regexp.MustCompile(`(?m)^max ([0-9]+)`),
	regexp.MustCompile(`(?m)^nr_throttled ([0-9]+)`)
