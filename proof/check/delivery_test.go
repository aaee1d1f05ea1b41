package check

import (
	"errors"
	"testing"

	"github.com/flotilla-mqtt/flotilla/proof/history"
)

func TestLoss(t *testing.T) {
	tell(t, []story{
		{"delivered", 0, both + at1 + "s/2 < PUBLISH id=1 q1 t=t m=m1\nquiet"},
		{"lost at QoS 1", Loss, both + at1 + "quiet"},
		{"lost at QoS 2", Loss, both + at2 + "quiet"},
		{"lost, seen by time alone", Loss, both + at1 + "+6s\np/1 > PINGREQ"},
		{"not yet due", 0, both + at1 + "+2s\np/1 > PINGREQ"},
		{"not due while faults are active", 0, both + at1 + "! kill n3\n+60s\np/1 > PINGREQ"},
		{"lost after healing", Loss, both + at1 + "! kill n3\nheal\n+6s\np/1 > PINGREQ"},
		{"not acknowledged", 0, both + "p/1 > PUBLISH id=1 q1 t=t m=m1\np/1 < CLOSE\nquiet"},
		{"PUBREC is no promise of delivery", 0, both + "p/1 > PUBLISH id=1 q2 t=t m=m1\np/1 < PUBREC id=1\np/1 < CLOSE\nquiet"},
		{"refused", 0, both + "p/1 > PUBLISH id=1 q1 t=t m=m1\np/1 < PUBACK id=1 reason=0x97\nquiet"},
		{"completed by an unknown id after PUBREC", Loss, both + `
p/1 > PUBLISH id=1 q2 t=t m=m1
p/1 < PUBREC id=1
p/1 > PUBREL id=1
p/1 < CLOSE
p/4@n2 > CONNECT keep
p/4 < CONNACK present
p/4 > PUBREL id=1
p/4 < PUBCOMP id=1 reason=0x92
quiet`},
		{"subscribed only with SUBACK", 0, `
p/1@n1 > CONNECT keep
p/1 < CONNACK
s/2@n2 > CONNECT keep
s/2 < CONNACK
s/2 > SUBSCRIBE id=1 f=t:2` + at1 + `
s/2 < SUBACK id=1 codes=2
quiet`},
		{"unsubscribed later", 0, both + at1 + "s/2 > UNSUBSCRIBE id=2 f=t\ns/2 < UNSUBACK id=2 codes=0\nquiet"},
		{"session wiped", 0, both + at1 + "s/2 < CLOSE\ns/3@n2 > CONNECT clean keep\ns/3 < CONNACK\nquiet"},
		{"session perhaps wiped", 0, both + `
s/2 < CLOSE
s/3@n1 > CONNECT clean keep
s/3 < CLOSE
s/4@n2 > CONNECT keep
s/4 < CONNACK present` + at1 + "quiet"},
		{"away while it was published, lost", Loss, both + "s/2 < CLOSE" + at1 + "s/3@n2 > CONNECT keep\ns/3 < CONNACK present\nquiet"},
		{"away to the end", 0, both + "s/2 < CLOSE" + at1 + "quiet"},
		{"refused subscription", 0, `
p/1@n1 > CONNECT keep
p/1 < CONNACK
s/2@n2 > CONNECT keep
s/2 < CONNACK
s/2 > SUBSCRIBE id=1 f=t:2
s/2 < SUBACK id=1 codes=0x97` + at1 + "quiet"},
	})
}

func TestDrain(t *testing.T) {
	tell(t, []story{
		{"late", Drain, both + at1 + "+6s\ns/2 < PUBLISH id=1 q1 t=t m=m1"},
		{"late, but soon after healing", 0, both + at1 + "! partition n2\n+60s\nheal\n+1s\ns/2 < PUBLISH id=1 q1 t=t m=m1\nquiet"},
		{"PUBLISH never answered", Drain, both + "p/1 > PUBLISH id=1 q1 t=t m=m1\nquiet"},
		{"PUBREL never answered", Drain, both + "p/1 > PUBLISH id=1 q2 t=t m=m1\np/1 < PUBREC id=1\np/1 > PUBREL id=1\n+6s\ns/2 > PINGREQ"},
		{"SUBSCRIBE never answered", Drain, both + "s/2 > SUBSCRIBE id=5 f=u:1\nquiet"},
		{"unanswered, connection closed", 0, both + "p/1 > PUBLISH id=1 q1 t=t m=m1\np/1 < CLOSE\nquiet"},
	})
}

func TestSessionPresent(t *testing.T) {
	const one = "s/1@n1 > CONNECT expiry=60\ns/1 < CONNACK\n"
	tell(t, []story{
		{"resumed", 0, one + "s/1 < CLOSE\n+30s\ns/2@n2 > CONNECT expiry=60\ns/2 < CONNACK present"},
		{"lost", SessionPresent, one + "s/1 < CLOSE\n+30s\ns/2@n2 > CONNECT expiry=60\ns/2 < CONNACK"},
		{"lost at takeover", SessionPresent, one + "s/2@n2 > CONNECT expiry=60\ns/2 < CONNACK"},
		{"expired", 0, one + "s/1 < CLOSE\n+90s\ns/2@n2 > CONNECT expiry=60\ns/2 < CONNACK"},
		{"just about to expire", 0, one + "s/1 < CLOSE\n+61s\ns/2@n2 > CONNECT expiry=60\ns/2 < CONNACK present"},
		{"kept beyond its expiry", SessionPresent, one + "s/1 < CLOSE\n+90s\ns/2@n2 > CONNECT expiry=60\ns/2 < CONNACK present"},
		{"present out of nothing", SessionPresent, "s/1@n1 > CONNECT expiry=60\ns/1 < CONNACK present"},
		{"present after a clean start", SessionPresent, one + "s/1 < CLOSE\ns/2@n1 > CONNECT clean expiry=60\ns/2 < CONNACK present"},
		{"an ephemeral session is not kept", SessionPresent, "s/1@n1 > CONNECT\ns/1 < CONNACK\ns/1 < CLOSE\ns/2@n1 > CONNECT\ns/2 < CONNACK present"},
		{"an unanswered CONNECT may have made one", 0, "s/1@n1 > CONNECT expiry=60\ns/1 < CLOSE\ns/2@n1 > CONNECT expiry=60\ns/2 < CONNACK present"},
		{"an unanswered CONNECT may not have made one", 0, "s/1@n1 > CONNECT expiry=60\ns/1 < CLOSE\ns/2@n1 > CONNECT expiry=60\ns/2 < CONNACK"},
		{"an unanswered clean start may have wiped it", 0, one + "s/1 < CLOSE\ns/2@n1 > CONNECT clean expiry=60\ns/2 < CLOSE\ns/3@n1 > CONNECT expiry=60\ns/3 < CONNACK"},
		{"ended by DISCONNECT with expiry 0", 0, one + "s/1 > DISCONNECT set=0\ns/1 < CLOSE\ns/2@n1 > CONNECT expiry=60\ns/2 < CONNACK"},
		{"the broker lowered the expiry", 0, "s/1@n1 > CONNECT keep\ns/1 < CONNACK set=10\ns/1 < CLOSE\n+20s\ns/2@n1 > CONNECT keep\ns/2 < CONNACK"},
	})
}

func TestArrivals(t *testing.T) {
	const off = both + "s/2 > UNSUBSCRIBE id=2 f=t\ns/2 < UNSUBACK id=2 codes=0\n"
	tell(t, []story{
		{"after UNSUBACK", Unsubscribed, off + at1 + "s/2 < PUBLISH id=1 q1 t=t m=m1"},
		{"published before UNSUBACK", 0, both + "p/1 > PUBLISH id=1 q1 t=t m=m1\ns/2 > UNSUBSCRIBE id=2 f=t\n" +
			"s/2 < UNSUBACK id=2 codes=0\ns/2 < PUBLISH id=1 q1 t=t m=m1"},
		{"subscribed again", 0, off + "s/2 > SUBSCRIBE id=3 f=t:1\np/1 > PUBLISH id=1 q1 t=t m=m1\ns/2 < PUBLISH id=1 q1 t=t m=m1"},
		{"never subscribed", Unsubscribed, both + "p/1 > PUBLISH id=1 q1 t=u m=m1\ns/2 < PUBLISH id=1 q1 t=u m=m1"},
		{"subscription of a wiped session", Unsubscribed, both + "s/2 < CLOSE\ns/3@n1 > CONNECT clean\ns/3 < CONNACK" + at1 +
			"s/3 < PUBLISH id=1 q1 t=t m=m1"},
		{"within its expiry", 0, both + "p/1 > PUBLISH id=1 q1 t=t m=m1 mexp=3\np/1 < PUBACK id=1\n+3s\ns/2 < PUBLISH id=1 q1 t=t m=m1 mexp=0"},
		{"after its expiry", Unsubscribed, both + "p/1 > PUBLISH id=1 q1 t=t m=m1 mexp=3\np/1 < PUBACK id=1\n+5s\ns/2 < PUBLISH id=1 q1 t=t m=m1 mexp=1"},
		{"resent after its expiry", 0, both + "p/1 > PUBLISH id=1 q1 t=t m=m1 mexp=3\np/1 < PUBACK id=1\ns/2 < PUBLISH id=1 q1 t=t m=m1 mexp=3" +
			again + "+5s\ns/3 < PUBLISH id=1 q1 dup t=t m=m1 mexp=1"},
		{"expiry raised", Unsubscribed, both + "p/1 > PUBLISH id=1 q1 t=t m=m1 mexp=3\ns/2 < PUBLISH id=1 q1 t=t m=m1 mexp=4"},
	})
}

func TestTakeover(t *testing.T) {
	const taken = both + `
p/1 > PUBLISH id=1 q1 t=x m=m1
p/4@n2 > CONNECT keep
p/4 < CONNACK present
`
	tell(t, []story{
		{"old connection falls silent", 0, taken + "p/1 < DISCONNECT reason=0x8e\np/1 < CLOSE"},
		{"an answer on its way", 0, taken + "p/1 < PUBACK id=1"},
		{"an answer too late", Takeover, taken + "+200ms\np/1 < PUBACK id=1"},
		{"a delivery too late", Takeover, both + "p/1 > PUBLISH id=1 q1 t=t m=m1\ns/3@n3 > CONNECT keep\ns/3 < CONNACK present\n+200ms\ns/2 < PUBLISH id=1 q1 t=t m=m1"},
		{"a new operation", Takeover, taken + "p/1 > PUBLISH id=2 q1 t=x m=m2\np/1 < PUBACK id=2"},
		{"a new operation that arrives", Takeover, taken + "p/1 > PUBLISH id=2 q1 t=t m=m2\ns/2 < PUBLISH id=1 q1 t=t m=m2"},
		{"a new operation that is ignored", 0, taken + "p/1 > PUBLISH id=2 q1 t=t m=m2\np/1 < CLOSE"},
		{"crossing connects prove nothing", 0, "p/1@n1 > CONNECT keep\np/4@n2 > CONNECT keep\np/1 < CONNACK\np/4 < CONNACK present\n+1s\n" +
			"p/1 > PUBLISH id=2 q1 t=x m=m2\np/1 < PUBACK id=2"},
	})
}

func TestWills(t *testing.T) {
	const willing = both + "w/4@n1 > CONNECT will=w1:t\nw/4 < CONNACK\n"
	const arrives = "s/2 < PUBLISH id=1 q1 t=t m=w1\ns/2 > PUBACK id=1\n"
	const delayed = both + "w/4@n1 > CONNECT keep will=w1:t:10\nw/4 < CONNACK\nw/4 < CLOSE\n"
	tell(t, []story{
		{"published when the node dies", 0, willing + "! kill n1\nw/4 < CLOSE\n" + arrives + "heal\nquiet"},
		{"missing when the node dies", Wills, willing + "! kill n1\nw/4 < CLOSE\nheal\nquiet"},
		{"missing after an abrupt close", Wills, willing + "w/4 > CLOSE\nquiet"},
		{"twice", Wills, willing + "w/4 < CLOSE\n" + arrives + "s/2 < PUBLISH id=2 q1 t=t m=w1"},
		{"after DISCONNECT", Wills, willing + "w/4 > DISCONNECT\nw/4 < CLOSE\n" + arrives},
		{"after a DISCONNECT that a dying node may not have read", 0, willing + "w/4 > DISCONNECT\n! kill n1\nw/4 < CLOSE\n" + arrives},
		{"after a DISCONNECT that the client did not wait for", 0, willing + "w/4 > DISCONNECT\nw/4 > CLOSE\n! kill n1\n" + arrives},
		{"after a DISCONNECT that was durable before its node died", Wills, willing + "w/4 > DISCONNECT\nw/4 < CLOSE\n! kill n1\n" + arrives},
		{"after a DISCONNECT on a link that has been lossy since before", 0,
			both + "! lossy n1\nw/4@n1 > CONNECT will=w1:t\nw/4 < CONNACK\nw/4 > DISCONNECT\nw/4 > CLOSE\n! over n1\n" + arrives},
		{"after a DISCONNECT on a link that was lossy before", Wills,
			both + "! lossy n1\n! over n1\nw/4@n1 > CONNECT will=w1:t\nw/4 < CONNACK\nw/4 > DISCONNECT\nw/4 < CLOSE\n" + arrives},
		{"after a DISCONNECT to a node that nothing was wrong with", Wills,
			both + "! lossy n2\nw/4@n1 > CONNECT will=w1:t\nw/4 < CONNACK\nw/4 > DISCONNECT\nw/4 < CLOSE\n! over n2\n" + arrives},
		{"after DISCONNECT with will", 0, willing + "w/4 > DISCONNECT reason=4\nw/4 < CLOSE\n" + arrives},
		{"while the connection is open", Wills, willing + arrives + "quiet"},
		{"none after DISCONNECT", 0, willing + "w/4 > DISCONNECT\nw/4 < CLOSE\nquiet"},
		{"delayed", 0, delayed + "+10s\n" + arrives + "quiet"},
		{"resumed within the delay", Wills, delayed + "w/5@n2 > CONNECT keep\nw/5 < CONNACK present\n+10s\n" + arrives},
		{"delayed and missing", Wills, delayed + "+20s\ns/2 > PINGREQ\nquiet"},
		{"an unanswered CONNECT may leave its will", 0, both + "w/4@n1 > CONNECT will=w1:t\nw/4 < CLOSE\n" + arrives + "quiet"},
		{"an unanswered CONNECT may leave none", 0, both + "w/4@n1 > CONNECT will=w1:t\nw/4 < CLOSE\nquiet"},
	})
}

func TestVoid(t *testing.T) {
	script := both + at1 + `
s/2 < PUBLISH id=1 q1 t=t m=m1` + again + `
p/1 > PUBLISH id=2 q1 t=t m=m2
! kill n1
! start n1
p/1 < CLOSE
p/4@n2 > CONNECT keep
p/4 < CONNACK present
p/4 > PUBLISH id=2 q1 dup t=t m=m2
+10s
! kill n3
+10s
s/2 < PUBLISH id=2 q1 retain t=t m=m1
`
	s := Run(parse(t, script), options()).Stats
	if s.Acks != 1 || s.Resumes != 2 || s.DupResends != 1 || s.Ambiguous != 2 || s.Published != 2 || s.Faults[history.FaultKill] != 2 ||
		s.Effective != 1 || s.Delivered != 1 || s.Retained != 1 {
		t.Errorf("stats: %s", s)
	}
	if err := s.Void(Thresholds{Acks: 1, Faults: 1, Resumes: 2, DupResends: 1, Ambiguous: 1}); err != nil {
		t.Error(err)
	}
	for _, high := range []Thresholds{{Acks: 2}, {Faults: 2}, {Resumes: 3}, {DupResends: 2}, {Ambiguous: 3}} {
		if err := s.Void(high); !errors.Is(err, ErrVoid) {
			t.Errorf("%+v: %v", high, err)
		}
	}
}

func TestMessageIDsMustBeUnique(t *testing.T) {
	r := Run(parse(t, both+"p/1 > PUBLISH id=1 q1 t=t m=m1\np/1 > PUBLISH id=2 q1 t=t m=m1"), options())
	if len(r.Undecided) != 1 {
		t.Errorf("undecided: %v", r.Undecided)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{{"a/b", "a/b", true}, {"a/+", "a/b", true}, {"a/#", "a", true}, {"#", "a/b", true}, {"a/+", "a", false}, {"+", "a/b", false},
		{"a", "a/b", false}, {"a/b", "a", false}, {"#", "$SYS/x", false}, {"+/x", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true}, {"a/+", "a/", true}} {
		if got := matches(c.filter, c.topic); got != c.want {
			t.Errorf("matches(%q, %q) = %t", c.filter, c.topic, got)
		}
	}
}
