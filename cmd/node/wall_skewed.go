//go:build skewedclock

package main

import (
	"log"
	"os"
	"strings"
	"time"
)

// wall is the clock of the machine, off by what the file that SKEWED_CLOCK names says, such as
// "-1h30m". Tests alone build this: the usual ways to give a process another clock do not reach
// a static Go binary.
func wall() time.Time {
	b, err := os.ReadFile(os.Getenv("SKEWED_CLOCK"))
	if err != nil {
		log.Fatal("SKEWED_CLOCK: ", err)
	}
	off, err := time.ParseDuration(strings.TrimSpace(string(b)))
	if err != nil {
		log.Fatal("SKEWED_CLOCK: ", err)
	}
	return time.Now().Add(off)
}
