package fsm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flotilla-mqtt/flotilla/proto/logpb"
)

// How outcomes look in the scenario files.

func formatGateway(g uint64) string {
	if !isGateway(g) {
		return fmt.Sprintf("p%d", g)
	}
	return fmt.Sprintf("%d.%d", g>>incarnationBits, g&incarnationMask)
}

func formatConnection(c Connection) string {
	return fmt.Sprintf("%s@%s#%d", c.ClientID, formatGateway(c.Gateway), c.Epoch)
}

func formatMessage(pb *logpb.Message) string {
	s := fmt.Sprintf("%s=%q q%d", pb.Topic, pb.Payload, pb.Qos)
	if pb.Retain {
		s += " retain"
	}
	if pb.IdSource != 0 || pb.IdSeq != 0 {
		s += fmt.Sprintf(" id=%s/%d", formatGateway(pb.IdSource), pb.IdSeq)
	}
	if pb.HasExpiry {
		s += fmt.Sprintf(" expires@%d", pb.Expiry)
	}
	return s
}

func formatDelivery(d Delivery) string {
	if d.Release {
		return fmt.Sprintf("PUBREL pid=%d seq=%d", d.PacketID, d.Seq)
	}
	s := fmt.Sprintf("PUBLISH q%d", d.QoS)
	if d.QoS > 0 {
		s += fmt.Sprintf(" pid=%d seq=%d", d.PacketID, d.Seq)
	}
	if d.Dup {
		s += " dup"
	}
	if d.Retained {
		s += " retain"
	}
	if len(d.SubscriptionIDs) > 0 {
		s += fmt.Sprintf(" ids=%v", d.SubscriptionIDs)
	}
	return s + fmt.Sprintf(" %s=%q", d.Message.Topic, d.Message.Payload)
}

func formatPush(p Push) string {
	var b strings.Builder
	fmt.Fprintf(&b, "push %s\n", formatConnection(p.Connection))
	for _, d := range p.Items {
		fmt.Fprintf(&b, "  %s\n", formatDelivery(d))
	}
	return b.String()
}

func formatItem(x *OutboxItem) string {
	s := fmt.Sprintf("outbox %d: %s", x.Seq, formatMessage(x.Message))
	if x.AfterClose != 0 {
		s += " after close of " + formatGateway(x.AfterClose)
	}
	if x.WaitClient != "" {
		s += fmt.Sprintf(" (%s pid=%d waits)", x.WaitClient, x.WaitPacketID)
	}
	if x.Stored {
		s += " stored"
	}
	return s
}

var codeNames = map[uint32]string{
	CodeOK: "ok", CodeFenced: "fenced", CodePending: "pending", CodeProtocolError: "protocol error",
	CodeFilterInvalid: "filter invalid", CodeUnknownPacketID: "unknown packet id",
	CodeQuota: "quota", CodeSharedUnsupported: "shared unsupported",
}

func formatResult(op string, r Result) string {
	status := [...]string{"", "duplicate, ", "gap", "closed"}[r.Status]
	if r.Status == Gap || r.Status == Closed {
		return status
	}
	s := status + codeNames[r.Code]
	if r.Bytes == nil {
		return s
	}
	switch op {
	case "connect":
		x := &logpb.ConnectResult{}
		must(x.UnmarshalVT(r.Bytes))
		s += fmt.Sprintf(", epoch %d", x.Epoch)
		if x.Present {
			s += ", session present"
		}
		if x.Ephemeral {
			s += ", ephemeral"
		}
		for _, p := range x.Previous {
			s += fmt.Sprintf(", after %s#%d", formatGateway(p.Gateway), p.Epoch)
		}
		for _, sub := range x.Subscriptions {
			s += fmt.Sprintf(", %s:%d", sub.Filter, sub.Qos)
		}
	case "subscribe":
		x := &logpb.SubscribeResult{}
		must(x.UnmarshalVT(r.Bytes))
		s += fmt.Sprintf(", codes %x, existed %v, version %d", x.Codes, x.Existed, x.Version)
		if x.Hold != 0 {
			s += fmt.Sprintf(", hold %d for retained %v", x.Hold, x.Retained)
		}
	case "unsubscribe":
		x := &logpb.UnsubscribeResult{}
		must(x.UnmarshalVT(r.Bytes))
		s += fmt.Sprintf(", existed %v", x.Existed)
	}
	return s
}

// formatEffects writes one effect per line. Pushes are sorted: their order
// between sessions means nothing.
func formatEffects(e *Effects, oldVersion uint64) string {
	var b strings.Builder
	for _, g := range e.Closed {
		fmt.Fprintf(&b, "closed %s\n", formatGateway(g))
	}
	for _, c := range e.Kick {
		fmt.Fprintf(&b, "kick %s\n", formatConnection(c))
	}
	for _, c := range e.OwnerGone {
		fmt.Fprintf(&b, "owner gone %s\n", formatConnection(c))
	}
	for _, p := range sortedPushes(e) {
		b.WriteString(formatPush(p))
	}
	for _, x := range e.Outbox {
		fmt.Fprintln(&b, formatItem(x))
	}
	for _, c := range e.Completed {
		fmt.Fprintf(&b, "PUBCOMP %s pid=%d\n", formatConnection(c.Connection), c.PacketID)
	}
	if e.Version != oldVersion {
		fmt.Fprintf(&b, "interest version %d:", e.Version)
		for _, c := range e.Interest {
			sign := '-'
			if c.Added {
				sign = '+'
			}
			fmt.Fprintf(&b, " %c%s", sign, c.Filter)
		}
		b.WriteString("\n")
	}
	for _, d := range sortedDrops(e) {
		fmt.Fprintf(&b, "dropped %d of %s (%s): %s", d.N, d.ClientID, d.Class, d.Reason)
		if d.First {
			b.WriteString(", its first")
		}
		b.WriteString("\n")
	}
	if e.Checkpoint != 0 {
		fmt.Fprintf(&b, "checkpoint %d\n", e.Checkpoint)
	}
	return b.String()
}

func sortedPushes(e *Effects) []Push {
	return slices.SortedFunc(slices.Values(e.Push), func(a, b Push) int {
		if c := strings.Compare(a.ClientID, b.ClientID); c != 0 {
			return c
		}
		return int(a.Epoch) - int(b.Epoch)
	})
}

// sortedDrops keeps the order of one session's drops.
func sortedDrops(e *Effects) []Drop {
	drops := slices.Clone(e.Dropped)
	slices.SortStableFunc(drops, func(a, b Drop) int { return strings.Compare(a.ClientID, b.ClientID) })
	return drops
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
