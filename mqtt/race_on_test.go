//go:build race

package mqtt

// raceEnabled: the race detector makes everything larger.
const raceEnabled = true
