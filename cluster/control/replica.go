package control

import (
	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
)

// startRaft starts this node's replica, once.
func (c *Control) startRaft() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.raft.Load() != nil {
		return nil
	}
	if c.closed {
		return ErrStopped
	}
	o := &c.opt
	conf := raft.DefaultConfig()
	conf.LocalID = o.ServerID
	conf.HeartbeatTimeout, conf.ElectionTimeout = o.HeartbeatTimeout, o.ElectionTimeout
	conf.LeaderLeaseTimeout, conf.CommitTimeout = o.LeaderLeaseTimeout, o.CommitTimeout
	conf.SnapshotThreshold, conf.TrailingLogs = o.SnapshotThreshold, o.TrailingLogs
	conf.ShutdownOnRemove = false // a replica that is removed may be asked for again
	conf.NotifyCh = c.leaderCh
	conf.Logger = RaftLogger(c.log)
	m := &machine{state: c.State(), publish: c.publish, fatal: o.Fatal}
	r, err := raft.NewRaft(conf, m, o.Store, o.Stable, o.Snapshots, o.Transport)
	if err != nil {
		return err
	}
	c.raft.Store(r)
	return nil
}

// setAdmitted tells the transport whether this replica may vote.
func (c *Control) setAdmitted(yes bool) {
	if t, ok := c.opt.Transport.(interface{ SetAdmitted(bool) }); ok {
		t.SetAdmitted(yes)
	}
}

// isVoter reports whether our replica's own log says that it votes.
func (c *Control) isVoter() bool {
	r := c.raft.Load()
	if r == nil {
		return false
	}
	for _, v := range c.voters() {
		if v.ID == c.opt.ServerID {
			return true
		}
	}
	return false
}

// announce tells the other nodes about this one.
func (c *Control) announce() {
	o := &c.opt
	c.opt.Discovery.Announce(discovery.Peer{
		Name: o.Node, Addr: o.Addresses.Peer, HTTP: o.Addresses.HTTP, MQTT: o.Addresses.MQTT,
		Zone: o.Zone, Version: o.Version,
		ClusterID: c.founder.clusterID(), Disk: o.Disk, ServerID: string(o.ServerID),
	})
}
