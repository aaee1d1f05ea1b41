package main

import (
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/mqtt"
)

// TestListenerLimits: what a listener's settings say is what its connections go by.
func TestListenerLimits(t *testing.T) {
	cfg := config.Default()
	l := config.Listener{AllowAnonymous: true, Limits: cfg.Limits}
	usual := listenerLimits(&cfg, l)
	if want := mqtt.DefaultLimits(); usual.MaxPacket != want.MaxPacket || usual.ReceiveMaximum != want.ReceiveMaximum ||
		usual.TopicAliasMaximum != want.TopicAliasMaximum || usual.ConnectTimeout != want.ConnectTimeout ||
		usual.MaxKeepAlive != 0 || !usual.AllowAnonymous {
		t.Errorf("defaults of the settings give %+v", usual)
	}
	l.AllowAnonymous = false
	l.Limits = config.Limits{
		MaxPacketSize: 4096, ReceiveMaximum: 5, TopicAliasMaximum: 6, ConnectTimeout: time.Second, MaxKeepAlive: time.Minute,
		MaxQoS: 1, MaxTopicLevels: 7, WildcardAvailable: true, CheckPayloadFormat: true, ServerReference: "elsewhere", ServerMoved: true,
		ResponseInformation: "r/%c",
	}
	got := listenerLimits(&cfg, l)
	if got.MaxPacket != 4096 || got.ReceiveMaximum != 5 || got.TopicAliasMaximum != 6 ||
		got.ConnectTimeout != time.Second || got.MaxKeepAlive != 60 || got.AllowAnonymous {
		t.Errorf("limits %+v", got)
	}
	if got.MaxQoS != 1 || got.MaxTopicLevels != 7 || got.RetainAvailable || !got.WildcardAvailable || got.SubscriptionIDAvailable ||
		got.SharedAvailable || !got.CheckPayloadFormat || got.ServerReference != "elsewhere" || !got.ServerMoved || got.ResponseInformation != "r/%c" {
		t.Errorf("capabilities %+v", got)
	}
	if got.QueueMessages != usual.QueueMessages || got.OnFull != usual.OnFull {
		t.Errorf("limits of sessions %+v", got)
	}
}
