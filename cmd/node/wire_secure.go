package main

import (
	"fmt"

	"google.golang.org/grpc/credentials"

	"github.com/flotilla-mqtt/flotilla/cluster/discovery"
	"github.com/flotilla-mqtt/flotilla/cluster/transport/mtls"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
)

// secured is what protects the traffic between nodes, and of operators.
type secured struct {
	peers     *mtls.Credentials // nil: none
	operators *mtls.Identity    // of the admin API; nil: none
	keys      [][]byte          // of gossip, at the start
	gossip    *discovery.Gossip // set when it runs
}

// secure reads certificates and keys, and says what goes in the clear.
func (n *node) secure() (err error) {
	s := &n.cfg.Security
	switch {
	case s.PeerTLS():
		files := mtls.Files{Cert: s.PeerCert, Key: s.PeerKey, CA: s.PeerCA}
		if n.secured.peers, err = mtls.New(n.cfg.Node, files, n.log); err != nil {
			return fmt.Errorf("peer-cert: %w", err)
		}
		n.watch.Add(n.reloadPeers, files.List()...)
		n.reloadPeers() // they may have changed since they were read
	case !config.Loopback(n.cfg.PeerAddr):
		n.log.Warn("the traffic between nodes is not encrypted, and whoever reaches the peer port can take part: set peer-cert, peer-key and peer-ca",
			"peer", n.cfg.PeerAddr)
	}
	if s.GossipKeyFile != "" {
		if n.secured.keys, err = discovery.ReadKeys(s.GossipKeyFile); err != nil {
			return fmt.Errorf("gossip-key-file: %w", err)
		}
	} else if !config.Loopback(n.cfg.GossipAddr) {
		n.log.Warn("gossip is not encrypted: set gossip-key-file", "gossip", n.cfg.GossipAddr)
	}
	return nil
}

// credentials are those between nodes; nil: none.
func (n *node) credentials() credentials.TransportCredentials {
	if n.secured.peers == nil {
		return nil
	}
	return n.secured.peers
}

// gossips takes up that gossip runs.
func (n *node) gossips(g *discovery.Gossip) {
	n.secured.gossip = g
	if file := n.cfg.Security.GossipKeyFile; file != "" {
		n.watch.Add(n.reloadKeys, file)
		n.reloadKeys() // it may have changed since it was read
	}
}

func (n *node) reloadPeers() {
	changed, err := n.secured.peers.Reload()
	n.reloaded("peer certificate", changed, err)
}

func (n *node) reloadKeys() {
	keys, err := discovery.ReadKeys(n.cfg.Security.GossipKeyFile)
	changed := false
	if err == nil {
		changed, err = n.secured.gossip.SetKeys(keys)
	}
	n.reloaded("gossip keys", changed, err)
}

// reloaded says what became of reading files again.
func (n *node) reloaded(what string, changed bool, err error) {
	switch {
	case err != nil:
		n.reloadsFailed.Add(1)
		n.log.Error(what+" not replaced: what was read before stays in use", "error", err)
	case changed:
		n.log.Info(what + " replaced")
	}
}

// peersRefused adds what the checks between nodes refused.
func (n *node) peersRefused(to map[string]uint64) {
	if n.secured.peers != nil {
		for reason, k := range n.secured.peers.Refused() {
			to[reason] += k
		}
	}
	if n.secured.gossip != nil {
		to["gossip_key"] += n.secured.gossip.Refused()
	}
}

func (n *node) securityMetrics() admin.SecurityMetrics {
	m := admin.SecurityMetrics{CertificateExpiry: map[string]float64{}, ReloadsFailed: n.reloadsFailed.Load()}
	if n.secured.peers != nil {
		m.CertificateExpiry["peer"] = float64(n.secured.peers.NotAfter().Unix())
	}
	for _, e := range n.endpoints {
		if e.certs != nil {
			m.CertificateExpiry[e.o.Name] = float64(e.certs.NotAfter().Unix())
		}
	}
	if n.secured.operators != nil {
		m.CertificateExpiry["admin"] = float64(n.secured.operators.NotAfter().Unix())
	}
	return m
}
