//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "chaos: it needs Linux: network namespaces, loop devices and control groups")
	os.Exit(1)
}
