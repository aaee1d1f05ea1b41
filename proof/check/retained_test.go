package check

import "testing"

func TestRetained(t *testing.T) {
	const connected = `
p/1@n1 > CONNECT keep
p/1 < CONNACK
s/2@n2 > CONNECT keep
s/2 < CONNACK
`
	const set1 = "p/1 > PUBLISH id=1 q1 retain t=t m=m1\np/1 < PUBACK id=1\n"
	const set2 = "p/1 > PUBLISH id=2 q2 retain t=t m=m2\np/1 < PUBREC id=2\np/1 > PUBREL id=2\np/1 < PUBCOMP id=2\n"
	const clear = "p/1 > PUBLISH id=3 q1 retain t=t\np/1 < PUBACK id=3\n"
	const sub = "s/2 > SUBSCRIBE id=1 f=#:2\ns/2 < SUBACK id=1 codes=2\n"
	const got1 = "s/2 < PUBLISH id=1 q1 retain t=t m=m1\ns/2 > PUBACK id=1\n"
	const got2 = "s/2 < PUBLISH id=2 q2 retain t=t m=m2\n"
	tell(t, []story{
		{"what was set is read", 0, connected + set1 + sub + got1 + "quiet"},
		{"the last one is read", 0, connected + set1 + set2 + sub + got2 + "quiet"},
		{"a stale one is read", Retained, connected + set1 + set2 + sub + got1},
		{"missing", Retained, connected + set1 + sub + "+3s\ns/2 > PINGREQ"},
		{"missing, but the node was in trouble", 0, connected + set1 + sub + "+1s\n! kill n2\n+3s\ns/2 > PINGREQ\ns/2 < CLOSE"},
		{"missing, workload is over", Retained, connected + set1 + sub + "quiet"},
		{"deleted", 0, connected + set1 + clear + sub + "quiet"},
		{"deleted and read", Retained, connected + set1 + clear + sub + got1},
		{"a refused one need not be there", 0, connected + "p/1 > PUBLISH id=1 q1 retain t=t m=m1\np/1 < PUBACK id=1 reason=0x97\n" + sub + "quiet"},
		{"concurrent write, read as the old value", 0, connected + set1 + "p/1 > PUBLISH id=2 q1 retain t=t m=m2\n" + sub + got1 +
			"p/1 < PUBACK id=2\ns/2 < PUBLISH id=2 q1 t=t m=m2\nquiet"},
		{"concurrent write, read live", 0, connected + sub + "p/1 > PUBLISH id=1 q1 retain t=t m=m1\ns/2 < PUBLISH id=1 q1 t=t m=m1\n" +
			"s/2 > PUBACK id=1\np/1 < PUBACK id=1\nquiet"},
		{"an unanswered write may happen late", 0, connected + "p/1 > PUBLISH id=2 q1 retain t=t m=m2\np/1 < CLOSE\n" +
			"p/4@n2 > CONNECT clean keep\np/4 < CONNACK\np/4 > PUBLISH id=1 q1 retain t=t m=m1\np/4 < PUBACK id=1\n" + sub +
			"s/2 < PUBLISH id=1 q1 retain t=t m=m2\ns/2 > PUBACK id=1\nquiet"},
		{"a resend writes again", 0, connected + "p/1 > PUBLISH id=1 q1 retain t=t m=m1\np/4@n2 > CONNECT keep\np/4 < CONNACK present\n" +
			"p/1 < PUBACK id=1\nq/5@n3 > CONNECT\nq/5 < CONNACK\nq/5 > PUBLISH id=1 q1 retain t=t m=m2\nq/5 < PUBACK id=1\n" +
			"p/4 > PUBLISH id=1 q1 dup retain t=t m=m1\np/4 < PUBACK id=1\n" + sub + got1 + "quiet"},
		{"a value comes back", Retained, connected + set1 + sub + got1 + set2 + `
s/2 < PUBLISH id=2 q2 t=t m=m2
q/5@n3 > CONNECT keep
q/5 < CONNACK
q/5 > SUBSCRIBE id=1 f=t:1
q/5 < SUBACK id=1 codes=1
q/5 < PUBLISH id=1 q1 retain t=t m=m1`},
		{"two copies for one SUBSCRIBE", Retained, connected + set1 + sub + got1 + "s/2 < PUBLISH id=2 q1 retain t=t m=m1"},
	})
}
