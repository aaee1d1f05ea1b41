package check

import "testing"

// both connects publisher p and subscriber s, which subscribes to t at QoS 2.
const both = `
p/1@n1 > CONNECT keep
p/1 < CONNACK
s/2@n2 > CONNECT keep rm=3
s/2 < CONNACK
s/2 > SUBSCRIBE id=1 f=t:2
s/2 < SUBACK id=1 codes=2
`

// at1 publishes message m1 at QoS 1, at2 message m1 at QoS 2.
const at1 = `
p/1 > PUBLISH id=1 q1 t=t m=m1
p/1 < PUBACK id=1
`
const at2 = `
p/1 > PUBLISH id=1 q2 t=t m=m1
p/1 < PUBREC id=1
p/1 > PUBREL id=1
p/1 < PUBCOMP id=1
`
const again = `
s/2 < CLOSE
s/3@n3 > CONNECT keep rm=3
s/3 < CONNACK present
`

func TestExactlyOnce(t *testing.T) {
	tell(t, []story{
		{"a whole flow", 0, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 > PUBREC id=1
s/2 < PUBREL id=1
s/2 > PUBCOMP id=1
quiet`},
		{"redelivered with its id", 0, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 > PUBREC id=1` + again + `
s/3 < PUBLISH id=1 q2 dup t=t m=m1
s/3 > PUBREC id=1
s/3 < PUBREL id=1
s/3 > PUBCOMP id=1
quiet`},
		{"PUBREL again after a lost PUBCOMP", 0, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 > PUBREC id=1
s/2 < PUBREL id=1
s/2 > PUBCOMP id=1` + again + `
s/3 < PUBREL id=1
s/3 > PUBCOMP id=1
quiet`},
		{"delivered twice under two ids", ExactlyOnce, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 < PUBLISH id=2 q2 t=t m=m1`},
		{"delivered again after the flow", ExactlyOnce, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 > PUBREC id=1
s/2 < PUBREL id=1
s/2 > PUBCOMP id=1
s/2 < PUBLISH id=2 q2 t=t m=m1`},
		{"the publisher resends and the broker forgot its id", ExactlyOnce, both + `
p/1 > PUBLISH id=1 q2 t=t m=m1
p/1 < CLOSE
p/4@n3 > CONNECT keep
p/4 < CONNACK present
p/4 > PUBLISH id=1 q2 dup t=t m=m1
p/4 < PUBREC id=1
p/4 > PUBREL id=1
p/4 < PUBCOMP id=1
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 < PUBLISH id=2 q2 t=t m=m1`},
	})
}

func TestDuplicates(t *testing.T) {
	const resent = both + `
p/1 > PUBLISH id=1 q1 t=t m=m1
p/1 < CLOSE
p/4@n3 > CONNECT keep
p/4 < CONNACK present
p/4 > PUBLISH id=1 q1 dup t=t m=m1
p/4 < PUBACK id=1
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 > PUBACK id=1
s/2 < PUBLISH id=2 q1 t=t m=m1
s/2 > PUBACK id=2
`
	tell(t, []story{
		{"QoS 1 twice because the publisher sent it twice", 0, resent},
		{"QoS 1 once more than sent", Duplicate, resent + `s/2 < PUBLISH id=3 q1 t=t m=m1`},
		{"QoS 1 twice under two ids", Duplicate, both + at1 + `
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 > PUBACK id=1
s/2 < PUBLISH id=2 q1 t=t m=m1`},
		{"QoS 1 again on the same connection", Duplicate, both + at1 + `
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 < PUBLISH id=1 q1 dup t=t m=m1`},
		{"QoS 1 again after a broken connection", 0, both + at1 + `
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 > PUBACK id=1` + again + `
s/3 < PUBLISH id=1 q1 dup t=t m=m1
s/3 > PUBACK id=1
quiet`},
		{"QoS 0 twice", Duplicate, both + `
p/1 > PUBLISH q0 t=t m=m1
s/2 < PUBLISH q0 t=t m=m1
s/2 < PUBLISH q0 t=t m=m1`},
	})
}

// TestOrderOfResentMessages shows when a QoS 1 message may arrive after a later one: when its
// first copy may have come before the subscription, so that its second is the first that the
// subscriber could get.
func TestOrderOfResentMessages(t *testing.T) {
	const connected = `
p/1@n1 > CONNECT keep
p/1 < CONNACK
s/2@n2 > CONNECT keep
s/2 < CONNACK
`
	const subscribe = `s/2 > SUBSCRIBE id=9 f=t:1
`
	const suback = `s/2 < SUBACK id=9 codes=1
`
	const first = `p/1 > PUBLISH id=1 q1 t=t m=m1
`
	const later = `p/1 > PUBLISH id=2 q1 t=t m=m2
p/1 < PUBACK id=2
s/2 < PUBLISH id=1 q1 t=t m=m2
s/2 > PUBACK id=1
`
	const resent = `p/1 < CLOSE
p/3@n3 > CONNECT keep
p/3 < CONNACK present
p/3 > PUBLISH id=1 q1 dup t=t m=m1
p/3 < PUBACK id=1
`
	const arrives = `s/2 < PUBLISH id=2 q1 t=t m=m1
s/2 > PUBACK id=2
`
	tell(t, []story{
		{"first sent before SUBSCRIBE", 0, connected + first + subscribe + suback + later + resent + arrives + "quiet"},
		{"first sent before SUBACK", 0, connected + subscribe + first + suback + later + resent + arrives + "quiet"},
		{"subscribed all along", Order, connected + subscribe + suback + first + later + resent + arrives},
		{"sent only once", Order, connected + subscribe + first + suback + later + `p/1 < PUBACK id=1
` + arrives},
		{"unsubscribed in between", 0, connected + subscribe + suback + first + `s/2 > UNSUBSCRIBE id=8 f=t
s/2 < UNSUBACK id=8 codes=0
` + subscribe + suback + later + resent + arrives + "quiet"},
	})
}

func TestOrder(t *testing.T) {
	const two = both + `
p/1 > PUBLISH id=1 q1 t=t m=m1
p/1 > PUBLISH id=2 q1 t=t m=m2
p/1 < PUBACK id=1
p/1 < PUBACK id=2
`
	const inflight = two + `
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 < PUBLISH id=2 q1 t=t m=m2` + again
	tell(t, []story{
		{"in order", 0, inflight + `
s/3 < PUBLISH id=1 q1 dup t=t m=m1
s/3 < PUBLISH id=2 q1 dup t=t m=m2
quiet`},
		{"first deliveries out of order", Order, two + `
s/2 < PUBLISH id=1 q1 t=t m=m2
s/2 < PUBLISH id=2 q1 t=t m=m1`},
		{"QoS 2 in the order of PUBREL", 0, both + `
p/1 > PUBLISH id=1 q2 t=t m=m1
p/1 > PUBLISH id=2 q2 t=t m=m2
p/1 < PUBREC id=1
p/1 < PUBREC id=2
p/1 > PUBREL id=2
p/1 > PUBREL id=1
s/2 < PUBLISH id=1 q2 t=t m=m2
s/2 < PUBLISH id=2 q2 t=t m=m1`},
		{"QoS 2 out of order", Order, both + `
p/1 > PUBLISH id=1 q2 t=t m=m1
p/1 > PUBLISH id=2 q2 t=t m=m2
p/1 < PUBREC id=1
p/1 < PUBREC id=2
p/1 > PUBREL id=1
p/1 > PUBREL id=2
s/2 < PUBLISH id=1 q2 t=t m=m2
s/2 < PUBLISH id=2 q2 t=t m=m1`},
		{"redelivered out of order", Order, inflight + `
s/3 < PUBLISH id=2 q1 dup t=t m=m2
s/3 < PUBLISH id=1 q1 dup t=t m=m1
quiet`},
		{"redelivered without DUP", Order, inflight + `
# and more: it is one copy too many, too
s/3 < PUBLISH id=1 q1 t=t m=m1
s/3 < PUBLISH id=2 q1 dup t=t m=m2
quiet`},
		{"redelivered under new ids", Order, both + at1 + `
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 > PUBACK id=1` + again + `
s/3 < PUBLISH id=7 q1 dup t=t m=m1`},
		{"not redelivered", Order, inflight + `
s/3 < PUBLISH id=1 q1 dup t=t m=m1
quiet`},
		{"PUBREL not sent again", Order, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 > PUBREC id=1` + again + `quiet`},
		{"other content", Order, both + at1 + `s/2 < PUBLISH id=1 q1 t=t m=m1 sum=1`},
		{"other topic", Order, both + `
s/2 > SUBSCRIBE id=2 f=u:2
s/2 < SUBACK id=2 codes=2` + at1 + `s/2 < PUBLISH id=1 q1 t=u m=m1`},
		{"a message out of nowhere", Order, both + `s/2 < PUBLISH id=1 q1 t=t m=m9`},
		{"DUP on a new session", Order, both + at1 + `s/2 < PUBLISH id=1 q1 dup t=t m=m1`},
		{"QoS lowered", Order, both + at2 + `s/2 < PUBLISH id=1 q1 t=t m=m1`},
		{"QoS raised", Order, both + at1 + `s/2 < PUBLISH id=1 q2 t=t m=m1`},
	})
}

func TestPacketIDs(t *testing.T) {
	const two = both + at1 + `
p/1 > PUBLISH id=2 q2 t=t m=m2
p/1 < PUBREC id=2
p/1 > PUBREL id=2
p/1 < PUBCOMP id=2
`
	tell(t, []story{
		{"id free after PUBACK", 0, two + `
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 > PUBACK id=1
s/2 < PUBLISH id=1 q2 t=t m=m2
quiet`},
		{"id reused in flight", PacketID, two + `
s/2 < PUBLISH id=1 q1 t=t m=m1
s/2 < PUBLISH id=1 q2 t=t m=m2`},
		{"id reused before PUBCOMP", PacketID, two + `
s/2 < PUBLISH id=1 q2 t=t m=m2
s/2 > PUBREC id=1
s/2 < PUBREL id=1
s/2 < PUBLISH id=1 q1 t=t m=m1`},
		{"id reused in flight on resume", PacketID, two + `
s/2 < PUBLISH id=1 q1 t=t m=m1` + again + `
s/3 < PUBLISH id=1 q2 t=t m=m2`},
		{"PUBLISH after PUBREL", PacketID, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 > PUBREC id=1
s/2 < PUBREL id=1` + again + `
# and more: the application gets it twice
s/3 < PUBLISH id=1 q2 dup t=t m=m1`},
		{"PUBREL before PUBREC", PacketID, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 < PUBREL id=1`},
		{"PUBREL twice on a connection", PacketID, both + at2 + `
s/2 < PUBLISH id=1 q2 t=t m=m1
s/2 > PUBREC id=1
s/2 < PUBREL id=1
s/2 < PUBREL id=1`},
		{"an answer to nothing", PacketID, both + `p/1 < PUBACK id=9`},
		{"an answer twice", PacketID, both + at1 + `p/1 < PUBACK id=1
s/2 < PUBLISH id=1 q1 t=t m=m1`},
		{"an answer to another connection's packet", PacketID, both + `
p/1 > PUBLISH id=1 q1 t=t m=m1
p/1 < CLOSE
p/4@n2 > CONNECT keep
p/4 < CONNACK present
p/4 < PUBACK id=1`},
		{"PUBACK for QoS 2", PacketID, both + `
p/1 > PUBLISH id=1 q2 t=t m=m1
p/1 < PUBACK id=1
s/2 < PUBLISH id=1 q2 t=t m=m1`},
		{"too few SUBACK codes", PacketID, both + `
s/2 > SUBSCRIBE id=2 f=a:1 f=b:1
s/2 < SUBACK id=2 codes=1`},
		{"beyond Receive Maximum", PacketID, both + `
p/1 > PUBLISH id=1 q1 t=t m=a
p/1 > PUBLISH id=2 q1 t=t m=b
p/1 > PUBLISH id=3 q1 t=t m=c
p/1 > PUBLISH id=4 q1 t=t m=d
s/2 < PUBLISH id=1 q1 t=t m=a
s/2 < PUBLISH id=2 q1 t=t m=b
s/2 < PUBLISH id=3 q1 t=t m=c
s/2 < PUBLISH id=4 q1 t=t m=d`},
	})
}

// TestCrossedConnections has two connections whose order nobody knows.
func TestCrossedConnections(t *testing.T) {
	const crossed = both + at2 + `
s/2 < CLOSE
s/3@n1 > CONNECT keep
s/4@n2 > CONNECT keep
s/3 < CONNACK present
s/4 < CONNACK present
s/4 < PUBLISH id=1 q2 dup t=t m=m1
`
	tell(t, []story{
		{"read in the wrong order", 0, crossed + "s/3 < PUBLISH id=1 q2 t=t m=m1"},
		{"under two ids", Order, crossed + "s/3 < PUBLISH id=2 q2 t=t m=m1"},
		{"twice on a connection", Duplicate, crossed + "s/4 < PUBLISH id=1 q2 dup t=t m=m1"},
	})
}
