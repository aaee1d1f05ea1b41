package suite

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on
// every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// usage is what some processes have used: CPU time since their start, and the
// memory they hold now.
type usage struct {
	cpu time.Duration
	rss int64
}

func readUsage(pids []int) (usage, error) {
	var sum usage
	var errs []error
	for _, pid := range pids {
		u, err := readProcess(pid)
		errs = append(errs, err)
		sum.cpu += u.cpu
		sum.rss += u.rss
	}
	return sum, errors.Join(errs...)
}

func readProcess(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	return parseStat(stat, int64(os.Getpagesize()))
}

// parseStat reads fields 14 (utime), 15 (stime) and 24 (rss) of
// /proc/PID/stat. Field 2 is the name in parentheses, which may hold anything.
func parseStat(stat []byte, page int64) (usage, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return usage{}, fmt.Errorf("no process name in %q", stat)
	}
	fields := strings.Fields(string(stat[end+1:])) // from field 3
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("only %d fields in %q", len(fields), stat)
	}
	var n [3]int64
	for i, field := range []int{14 - 3, 15 - 3, 24 - 3} {
		v, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return usage{}, err
		}
		n[i] = v
	}
	return usage{cpu: time.Duration(n[0]+n[1]) * clockTick, rss: n[2] * page}, nil
}
