package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-mqtt/flotilla/proof/client"
)

// TestSharedSurvives has a group with members on three nodes, one of which dies under
// traffic with a member's gateway, with the leader of the group's partition, or with both.
// Every message must come to one member: what the dead member had not acknowledged at
// QoS 1 to another one; at QoS 2 nobody else may get what it may have been sent, which its
// Receive Maximum bounds.
func TestSharedSurvives(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	const window, messages = 20, 300
	for name, roles := range map[string]struct{ leads, serves bool }{
		"gateway": {serves: true},
		"leader":  {leads: true},
		"both":    {leads: true, serves: true},
		"session": {}, // only a session's partition had its leader there
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, c)
			victim := c.Leader()
			others := c.Others(victim)
			share := "$share/" + name + "/"
			filter := c.ClientID(share+"job", func(leader *Node) bool { return (leader == victim) == roles.leads })
			topic := strings.TrimPrefix(filter, share)
			led := func(n *Node) bool { return n == victim }
			keeper := s.connect(c.ClientID(name+"-keeper", led), nil, others...) // its session survives
			brief := func(cfg *client.SessionConfig) { cfg.Expiry, cfg.ReceiveMaximum, cfg.Version = 0, window, 5 }
			members := []*person{keeper, s.connect(name+"-brief-0", brief, others[0], others[1])}
			dies := others[1]
			if roles.serves {
				dies = victim
			}
			members = append(members, s.connect(name+"-brief-1", brief, dies, others[0]))
			for _, m := range members {
				m.subscribe(filter, 2)
			}
			pub := s.connect(name+"-pub", nil, others...)
			var tokens []*client.Token
			for i := range messages {
				if i == messages/3 {
					victim.Kill9()
				}
				tokens = append(tokens, pub.Publish(message(topic, byte(1+i%2), fmt.Sprint("m", i))))
				time.Sleep(time.Millisecond) // a rate, not a synchronisation
			}
			for i, token := range tokens {
				s.taken(fmt.Sprint("message ", i), token)
			}
			missing := func() (qos1, qos2 []string) {
				var got []string
				for _, m := range members {
					got = append(got, m.received()...)
				}
				for i := range messages {
					if id := fmt.Sprint("m", i); !slices.Contains(got, id) && i%2 == 0 {
						qos1 = append(qos1, id)
					} else if !slices.Contains(got, id) {
						qos2 = append(qos2, id)
					}
				}
				return qos1, qos2
			}
			lossy := 0
			if roles.serves {
				lossy = window
			}
			for end := time.Now().Add(5 * patience); ; time.Sleep(50 * time.Millisecond) { // polling
				qos1, qos2 := missing()
				if len(qos1) == 0 && len(qos2) <= lossy {
					t.Logf("%d messages, %d of QoS 2 were lost with a session", messages, len(qos2))
					break
				}
				if time.Now().After(end) {
					t.Fatalf("missing at QoS 1: %v, at QoS 2: %v", qos1, qos2)
				}
			}
			s.verdict()
		})
	}
}
