package check

import "testing"

// members are a publisher and two members of a group, of which b's session is kept.
const members = `
p/1@n1 > CONNECT keep
p/1 < CONNACK
a/2@n2 > CONNECT keep
a/2 < CONNACK
a/2 > SUBSCRIBE id=1 f=$share/g/t:2
a/2 < SUBACK id=1 codes=2
b/3@n3 > CONNECT keep
b/3 < CONNACK
b/3 > SUBSCRIBE id=1 f=$share/g/t:2
b/3 < SUBACK id=1 codes=2
`

// over ends a's session before it has acknowledged anything.
const over = `
a/2 < CLOSE
a/4@n1 > CONNECT clean keep
a/4 < CONNACK
`

func TestShared(t *testing.T) {
	const atA1, atA2, atB1, atB2 = "\na/2 < PUBLISH id=1 q1 t=t m=m1\n", "\na/2 < PUBLISH id=1 q2 t=t m=m1\n", "\nb/3 < PUBLISH id=1 q1 t=t m=m1\n", "\nb/3 < PUBLISH id=1 q2 t=t m=m1\n"
	const resumed = "a/2 < CLOSE\na/4@n1 > CONNECT keep\na/4 < CONNACK present\n"
	tell(t, []story{
		{"one member", 0, members + at1 + atB1 + "quiet"},
		{"none", Shared, members + at1 + "quiet"},
		{"none at QoS 2", Shared, members + at2 + "quiet"},
		{"none, but nobody is surely there", 0, members + at1 + "a/2 < CLOSE\nb/3 < CLOSE\nquiet"},
		{"two at QoS 2", Shared, members + at2 + atA2 + over + atB2 + "quiet"},
		{"two at QoS 1, both alive", Shared, members + at1 + atA1 + atB1 + resumed + "a/4 < PUBLISH id=1 q1 dup t=t m=m1\nquiet"},
		{"two at QoS 1, the first is over", 0, members + at1 + atA1 + over + atB1 + "quiet"},
		{"two at QoS 1, but it was sent twice", 0, members + "p/1 > PUBLISH id=1 q1 t=t m=m1\np/1 < CLOSE\np/9@n2 > CONNECT keep\np/9 < CONNACK present\np/9 > PUBLISH id=1 q1 dup t=t m=m1\np/9 < PUBACK id=1\n" +
			atA1 + atB1 + "quiet"},
		{"two at QoS 0", Shared, members + "p/1 > PUBLISH q0 t=t m=m1\na/2 < PUBLISH q0 t=t m=m1\nb/3 < PUBLISH q0 t=t m=m1\nquiet"},
		{"a session takes it along at QoS 1", Shared, members + at1 + atA1 + over + "quiet"},
		{"a session takes it along at QoS 1, acknowledged", 0, members + at1 + atA1 + "a/2 > PUBACK id=1\n" + over + "quiet"},
		{"a session takes it along at QoS 2", 0, members + at2 + atA2 + over + "quiet"},
		{"a session may have taken it along at QoS 2", 0, members + at2 + over + "quiet"},
		{"a session that was over long before", Shared, members + over + "+60s" + at2 + "quiet"},
		{"unsubscribed, and taken along", 0, members + at1 + atA1 + "a/2 > UNSUBSCRIBE id=2 f=$share/g/t\na/2 < UNSUBACK id=2 codes=0\n" + over + "quiet"},
		{"to a stranger", Unsubscribed, members + at1 + "p/1 < PUBLISH id=1 q1 t=t m=m1\nb/3 < PUBLISH id=1 q1 t=t m=m1\nquiet"},
		{"at a higher QoS than granted", Order, members + "x/7@n1 > CONNECT keep\nx/7 < CONNACK\nx/7 > SUBSCRIBE id=1 f=$share/x/t:1\nx/7 < SUBACK id=1 codes=1\n" +
			at2 + atA2 + "x/7 < PUBLISH id=1 q2 t=t m=m1\nquiet"},
	})
	tell(t, []story{
		{"one member keeps order", Order, `
p/1@n1 > CONNECT keep
p/1 < CONNACK
a/2@n2 > CONNECT keep
a/2 < CONNACK
a/2 > SUBSCRIBE id=1 f=$share/g/t:2
a/2 < SUBACK id=1 codes=2` + twoAtOnce + "quiet"},
		{"several members do not", 0, members + twoAtOnce + "quiet"},
	})
}

const twoAtOnce = `
p/1 > PUBLISH id=1 q1 t=t m=m1
p/1 < PUBACK id=1
p/1 > PUBLISH id=2 q1 t=t m=m2
p/1 < PUBACK id=2
a/2 < PUBLISH id=1 q1 t=t m=m2
a/2 < PUBLISH id=2 q1 t=t m=m1
`
