package cluster

import (
	"errors"
	"slices"
	"testing"

	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
)

// A leader is asked for the completion of a Release only when that is known to be
// committed: one that has not seen it has nothing to complete, and would say that
// all is done. PUBCOMP would go out, and if the session were taken over with a
// clean start before the Release came, the message would be lost
// [MQTT-4.3.3-11].
func TestAttachAsksForCommittedReleasesOnly(t *testing.T) {
	c := connection{"pub", 7}
	p := &ingressPart{sessions: map[connection]*position{c: {}}}
	var answers []error
	if !p.startRelease(c, 5, func(err error) { answers = append(answers, err) }) {
		t.Fatal("the connection is not known")
	}
	asked := func(lost bool) []uint32 { return p.attach(1, 1, lost)[0].Sessions[0].Releasing }
	if ids := asked(true); len(ids) != 0 {
		t.Fatalf("asked for %v before anything is committed", ids)
	}
	if waits, unsure := p.pendRelease(c, 5); !waits || !unsure {
		t.Fatalf("waits %t, unsure %t: Completed may have been missed", waits, unsure)
	}
	if ids := asked(false); !slices.Equal(ids, []uint32{5}) {
		t.Fatalf("asked for %v", ids)
	}
	p.endRelease(c, 5, nil)
	if ids := asked(true); len(ids) != 0 || len(answers) != 1 || answers[0] != nil {
		t.Fatalf("asked for %v, answered %v", ids, answers)
	}

	// Without a loss in between Completed comes by itself.
	p.startRelease(c, 6, func(err error) { answers = append(answers, err) })
	asked(false)
	if waits, unsure := p.pendRelease(c, 6); !waits || unsure {
		t.Fatalf("waits %t, unsure %t", waits, unsure)
	}
	p.fence(c.client, c.epoch)
	if len(answers) != 2 || !errors.Is(answers[1], flow.ErrFenced) {
		t.Fatalf("answered %v", answers)
	}
}
