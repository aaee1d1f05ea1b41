package config

import (
	"errors"
	"math"
	"net"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Size is a number of bytes. It reads and prints as 16MiB.
type Size int64

// units from the largest; the first that fits a number exactly prints it.
var units = []struct {
	name  string
	bytes Size
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

var errSize = errors.New("not a size")

// ParseSize reads a number of bytes with an optional unit: 512, 512B, 16MiB, 1.5GB.
func ParseSize(s string) (Size, error) {
	number, factor := strings.TrimSpace(s), Size(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/int64(factor) {
			return 0, errSize
		}
		return Size(n) * factor, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f*float64(factor) >= math.MaxInt64 {
		return 0, errSize
	}
	return Size(f * float64(factor)), nil
}

// String is the size in the largest binary unit that divides it.
func (s Size) String() string {
	for _, u := range units[:4] {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// validText: what a property of MQTT can hold, and a line of a log.
func validText(s string) bool {
	return utf8.ValidString(s) && len(s) <= 1024 && strings.IndexFunc(s, unicode.IsControl) < 0
}

func notEmpty(s string) bool { return s != "" }

// validName: a node's name is part of server ids (name#incarnation), folder
// names and metric labels.
func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return false
		}
	}
	return true
}

func validHost(s string) bool {
	if s == "" || strings.ContainsAny(s, " /[]#@,") {
		return false
	}
	return net.ParseIP(s) != nil || !strings.Contains(s, ":")
}

func validAddr(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, " /#@,") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n <= 65535
}

// validJoin: a host with or without a port, or an SRV name, which has its ports
// in the records.
func validJoin(s string) bool {
	return validHost(s) || validAddr(s) && !strings.HasSuffix(s, ":0") && !strings.HasPrefix(s, "_")
}

// Loopback reports whether only this machine can reach a listener at addr.
// Names other than localhost are not looked up: what they mean can change.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
