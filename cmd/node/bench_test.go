package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/bench"
)

func TestBenchRefusesBadFlags(t *testing.T) {
	for option, args := range map[string][]string{
		"qos":          {"--qos=3"},
		"scenario":     {"--scenario=fan"},
		"size":         {"--size=1"},
		"mqtt-version": {"--mqtt-version=300"},
		"window":       {"--window=70000"},
	} {
		_, err := runProgram(t, startFake, append([]string{"bench"}, args...)...)
		var e *bench.OptionError
		if !errors.As(err, &e) || e.Option != option {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, args := range [][]string{{"bench", "now"}, {"bench", "--no-such-flag"}, {"bench", "--password-file=/no/such/file"}, {"bench", "suite", "--rounds=0"}} {
		if _, err := runProgram(t, startFake, args...); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

func TestSuiteNamesItsScenarios(t *testing.T) {
	_, err := runProgram(t, startFake, "bench", "suite", "--only=qos1,nothing")
	if err == nil || !strings.Contains(err.Error(), `"nothing"`) || !strings.Contains(err.Error(), "fan-out") {
		t.Errorf("got %v", err)
	}
}
