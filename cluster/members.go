package cluster

// This file is what the node makes of the control group's state. All of it is
// level-triggered: it compares, and may run at any time.

// stateChanged brings everything in line with the control group's state.
func (n *Node) stateChanged() {
	n.releaseHeld()
	n.checkDrained()
	for _, m := range n.control.State().Members {
		if m.Name != n.name {
			n.transport.Connect(m.Name)
		}
	}
	for _, end := range n.routes.gateways() {
		if n.gatewayClosed(end) {
			n.routes.drop(end)
		}
	}
	if e := n.out.Load(); e != nil {
		e.forget(n.gatewayClosed)
	}
	if g := n.ingress(); g != nil {
		for _, end := range g.gatewayLanes() {
			if n.gatewayClosed(end) {
				g.dropGateway(end)
			}
		}
		g.interest.setMembers(n.liveGateways())
		g.kicks.retry("")
	}
	for _, r := range n.replicas.all() {
		if ld := r.leader(); ld != nil {
			ld.box.put(event{call: ld.membersChanged})
		}
	}
}

// liveGateways is the live gateway of each node that has one.
func (n *Node) liveGateways() map[string]uint64 {
	live := make(map[string]uint64)
	for _, m := range n.control.State().Members {
		if g := m.Live(); g != 0 {
			live[m.Name] = g
		}
	}
	return live
}

func (n *Node) memberNodes() []string {
	ms := n.control.State().Members
	names := make([]string, len(ms))
	for i, m := range ms {
		names[i] = m.Name
	}
	return names
}

// gatewayNode is the node of a gateway; "": unknown, or closed.
func (n *Node) gatewayNode(gateway uint64) string {
	m := n.control.State().MemberByNumber(nodeNumber(gateway))
	if m == nil {
		return ""
	}
	return m.Name
}

// gatewayClosed reports whether the cluster has ended the gateway for ever; its
// lease is over then.
func (n *Node) gatewayClosed(gateway uint64) bool { return n.control.State().Closed(gateway) }

// ready finds out whether this node can serve: everybody reckons with our
// incarnation, and we know the interest of every destination. missing says what
// is lacking, for people.
func (n *Node) ready() (missing []string) {
	if !n.opened.Load() {
		return []string{"the node has not joined a cluster yet"}
	}
	g := n.ingress()
	if g == nil && n.clearing.Load() {
		return []string{"connections of this node's last gateway are still closing"}
	}
	if g == nil {
		return []string{"this node's gateway has not been admitted by the control group"}
	}
	if !n.control.EveryoneKnows() {
		missing = append(missing, "not every member knows this node's gateway yet")
	}
	for p := range n.partitions {
		if !n.routes.knows(uint64(p), g.id) {
			missing = append(missing, "the subscriptions of "+endName(uint64(p))+" are not known yet")
		}
	}
	for _, other := range n.liveGateways() {
		if !n.routes.knows(other, g.id) {
			missing = append(missing, "the subscriptions of "+endName(other)+" are not known yet")
		}
	}
	return missing
}
