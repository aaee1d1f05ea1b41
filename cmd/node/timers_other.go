//go:build !linux

package main

// lazyTimers has nothing to do: only Linux has a timer slack.
func lazyTimers() {}
