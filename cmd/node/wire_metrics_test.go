package main

import (
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cluster/store"
	"github.com/flotilla-mqtt/flotilla/cluster/transport"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/mqtt"
	"github.com/flotilla-mqtt/flotilla/mqtt/auth"
	"github.com/flotilla-mqtt/flotilla/mqtt/packet"
)

// numbers gives every number in v one of its own and tells where each is.
func numbers(v reflect.Value, path string, at map[uint64]string) {
	switch x := v.Addr().Interface().(type) {
	case *atomic.Uint64:
		x.Store(uint64(len(at)) + 1000)
		at[x.Load()] = path
		return
	case *atomic.Int64:
		x.Store(int64(len(at)) + 1000)
		at[uint64(x.Load())] = path
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				numbers(v.Field(i), path+"."+f.Name, at)
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			numbers(v.Index(i), fmt.Sprintf("%s[%d]", path, i), at)
		}
	case reflect.Uint64:
		v.SetUint(uint64(len(at)) + 1000)
		at[v.Uint()] = path
	case reflect.Int64: // LogBytes, and Pending in nanoseconds
		v.SetInt(int64(len(at)) + 1000)
		if v.Type().Name() != "Duration" {
			at[uint64(v.Int())] = path
		}
	}
}

// TestEverythingCountedIsExported: each counter of the parts comes out of /metrics'
// sources under some name.
func TestEverythingCountedIsExported(t *testing.T) {
	at := map[uint64]string{}
	var g mqtt.Metrics
	var c cluster.Metrics
	var a auth.Metrics
	var tr transport.Stats
	var st store.Stats
	for name, v := range map[string]any{"mqtt": &g, "auth": &a, "cluster": &c, "transport": &tr, "store": &st} {
		numbers(reflect.ValueOf(v).Elem(), name, at)
	}
	out := admin.Metrics{Gateway: gatewayMetrics(&g), Auth: authMetrics(&a), Cluster: clusterMetrics(&c), Transport: transportMetrics(tr), Store: storeMetrics(st)}
	countDrops(out.Cluster.Dropped, &g)
	text := fmt.Sprintf("%+v", out)
	for n, where := range at {
		if !strings.Contains(text, fmt.Sprint(n)) {
			t.Errorf("%s is counted and not exported", where)
		}
	}
	if len(at) < 1000 {
		t.Errorf("found only %d counters", len(at))
	}
}

func TestReasonsAreLabels(t *testing.T) {
	var closed [256]atomic.Uint64
	for code := range closed {
		closed[code].Store(1)
	}
	for name := range byReason(&closed) {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Errorf("label %q is not snake case", name)
		}
	}
	for code, want := range map[packet.ReasonCode]string{
		packet.Success: "success", packet.ServerUnavailable: "server_unavailable",
		packet.PacketTooLarge: "packet_too_large", packet.ReAuthenticate: "re_authenticate", 5: "reserved_0x05",
	} {
		if got := code.Label(); got != want {
			t.Errorf("%v has the label %q, want %q", code, got, want)
		}
	}
}
