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
	if len(x.Group) > 0 {
		s := fmt.Sprintf("outbox %d to %s:", x.Seq, formatGateway(x.Destination))
		for _, it := range x.Group {
			s += "\n  " + formatGroupItem(it)
		}
		return s
	}
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

func formatGroupItem(it *logpb.GroupItem) string {
	switch b := it.Body.(type) {
	case *logpb.GroupItem_Member:
		p := b.Member
		s := fmt.Sprintf("member %s of %s: stamp %d, q%d, window %d", p.ClientId, p.Filter, p.Stamp, p.Qos, p.Window)
		if p.Gateway == 0 {
			s += ", away"
		} else {
			s += fmt.Sprintf(", at %s#%d", formatGateway(p.Gateway), p.Epoch)
		}
		if len(p.Kept) > 0 {
			s += fmt.Sprintf(", keeps %v", p.Kept)
		}
		return s
	case *logpb.GroupItem_Leave:
		return fmt.Sprintf("leave %s of %s", b.Leave.ClientId, b.Leave.Filter)
	case *logpb.GroupItem_Taken:
		return fmt.Sprintf("taken by %s of %s: %v", b.Taken.ClientId, b.Taken.Filter, b.Taken.Items)
	}
	a := it.GetAssigned()
	s := fmt.Sprintf("assigned to %s of %s: stamp %d, item %d, q%d, %s=%q", a.ClientId, a.Filter, a.Stamp, a.Item, a.Qos, a.Message.Topic, a.Message.Payload)
	if a.Retained {
		s += " retain"
	}
	if a.SubscriptionId != 0 {
		s += fmt.Sprintf(" id=%d", a.SubscriptionId)
	}
	return s
}

var codeNames = map[uint32]string{
	CodeOK: "ok", CodeFenced: "fenced", CodePending: "pending", CodeProtocolError: "protocol error",
	CodeFilterInvalid: "filter invalid", CodeUnknownPacketID: "unknown packet id",
	CodeQuota: "quota",
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
		s += formatPosted(x.Posted)
	case "unsubscribe":
		x := &logpb.UnsubscribeResult{}
		must(x.UnmarshalVT(r.Bytes))
		s += fmt.Sprintf(", existed %v", x.Existed) + formatPosted(x.Posted)
	case "member", "leave":
		x := &logpb.GroupResult{}
		must(x.UnmarshalVT(r.Bytes))
		s += fmt.Sprintf(", existed %v, version %d", x.Existed, x.Version)
	}
	return s
}

func formatPosted(posted []*logpb.Posted) (s string) {
	for _, p := range posted {
		s += fmt.Sprintf(", after outbox %d at p%d", p.Seq, p.Partition)
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
	for _, p := range e.Shared {
		fmt.Fprintf(&b, "shared %s", formatPush(p))
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
			if c.Groups {
				b.WriteString("(shared)")
			}
		}
		b.WriteString("\n")
	}
	for _, d := range sortedDrops(e) {
		fmt.Fprintf(&b, "dropped %d of %s%s (%s): %s", d.N, d.ClientID, d.Group, d.Class, d.Reason)
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
