package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/flotilla-mqtt/flotilla/cluster"
	"github.com/flotilla-mqtt/flotilla/cluster/transport/mtls"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/config"
	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/disk"
	"github.com/flotilla-mqtt/flotilla/mqtt/flow"
	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

var _ admin.Operator = (*node)(nil)

// statuses are how errors of the cluster are answered.
var statuses = []struct {
	err    error
	status int
}{
	{cluster.ErrNoSession, http.StatusNotFound}, {cluster.ErrNoPartition, http.StatusNotFound},
	{cluster.ErrNotConnected, http.StatusConflict}, {cluster.ErrNoReplica, http.StatusConflict}, {cluster.ErrTransfer, http.StatusConflict},
	{cluster.ErrInvalidFilter, http.StatusBadRequest},
	{cluster.ErrNotJoined, http.StatusServiceUnavailable}, {flow.ErrUnavailable, http.StatusServiceUnavailable},
	{cluster.ErrNoMember, http.StatusNotFound}, {cluster.ErrAlive, http.StatusConflict}, {cluster.ErrLastNode, http.StatusConflict},
	{cluster.ErrNoAnswer, http.StatusServiceUnavailable},
}

// answered gives an error of the cluster its status.
func answered(err error) error {
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return &admin.Error{Status: s.status, Err: err}
		}
	}
	return err
}

// Sessions implements admin.Operator.
func (n *node) Sessions(ctx context.Context, q admin.SessionQuery) (admin.SessionPage, error) {
	states := map[string]peerpb.SessionsRequest_State{"connected": peerpb.SessionsRequest_CONNECTED, "offline": peerpb.SessionsRequest_OFFLINE}
	list, more, err := n.cluster.Sessions(ctx, cluster.SessionQuery{
		After: q.After, FromStart: q.FromStart, Prefix: q.Prefix, Limit: q.Limit, State: states[q.State],
	})
	page := admin.SessionPage{Sessions: make([]admin.Session, len(list)), More: more}
	for i, s := range list {
		page.Sessions[i] = n.operatorSession(s)
	}
	return page, answered(err)
}

func (n *node) operatorSession(s *peerpb.SessionSummary) admin.Session {
	out := admin.Session{
		ClientID: s.ClientId, Username: s.Username, Protocol: map[uint32]string{3: "3.1", 4: "3.1.1", 5: "5.0"}[s.Protocol],
		Connected: s.Owner != 0, Node: n.cluster.OwnerNode(s), Partition: n.cluster.PartitionOf(s.ClientId), Ephemeral: s.Ephemeral,
		ExpiresInMS: s.ExpiresIn, Subscriptions: int(s.Subscriptions), Queued: int(s.Queued), QueuedBytes: s.QueuedBytes,
		Inflight: int(s.Inflight), Inbound: int(s.Inbound), Dropped: s.Dropped, Will: s.Will, Epoch: s.Epoch, Gateway: s.Owner,
	}
	if s.Expiry != flow.NeverExpires {
		out.ExpirySeconds = &s.Expiry
	}
	return out
}

// Session implements admin.Operator.
func (n *node) Session(ctx context.Context, clientID string) (*admin.SessionDetail, error) {
	s, gw, err := n.cluster.Session(ctx, clientID)
	if err != nil {
		return nil, answered(err)
	}
	d := &admin.SessionDetail{Session: n.operatorSession(s.Session)}
	subs := s.Subscriptions
	if gw != nil {
		d.Remote, d.Listener, d.KeepAlive = gw.Remote, gw.Listener, gw.KeepAlive
		if d.Ephemeral {
			subs = gw.Subscriptions
			d.Queued, d.QueuedBytes, d.Inflight = int(gw.Queued), gw.QueuedBytes, int(gw.Inflight)
		}
	}
	d.Subscriptions = len(subs)
	d.List = make([]admin.Subscription, len(subs))
	for i, x := range subs {
		d.List[i] = admin.Subscription{
			Filter: x.Filter, QoS: x.Qos, NoLocal: x.NoLocal, RetainAsPublished: x.RetainAsPublished, RetainHandling: x.RetainHandling, ID: x.Id,
		}
	}
	return d, nil
}

// Kick implements admin.Operator.
func (n *node) Kick(ctx context.Context, clientID string) error {
	return answered(n.cluster.Kick(ctx, clientID))
}

// DeleteSession implements admin.Operator.
func (n *node) DeleteSession(ctx context.Context, clientID string) error {
	return answered(n.cluster.DeleteSession(ctx, clientID))
}

// Retained implements admin.Operator.
func (n *node) Retained(ctx context.Context, filter, after string, limit int) (admin.RetainedPage, error) {
	list, more, err := n.cluster.RetainedTopics(ctx, filter, after, limit)
	page := admin.RetainedPage{Retained: make([]admin.Retained, len(list)), More: more}
	for i, t := range list {
		page.Retained[i] = admin.Retained{Topic: t.Topic, QoS: t.Qos, Bytes: t.Bytes, ExpiresInMS: t.ExpiresIn, Publisher: t.Publisher}
	}
	return page, answered(err)
}

// ClearRetained implements admin.Operator.
func (n *node) ClearRetained(ctx context.Context, filter string) (int, error) {
	k, err := n.cluster.ClearRetained(ctx, filter)
	return k, answered(err)
}

// Transfer implements admin.Operator.
func (n *node) Transfer(ctx context.Context, partition uint32, node string) error {
	return answered(n.cluster.TransferLeadership(ctx, partition, node))
}

// Drain implements admin.Operator.
func (n *node) Drain(ctx context.Context, node string, forget bool) error {
	return answered(n.cluster.Drain(ctx, node, forget))
}

// Undrain implements admin.Operator.
func (n *node) Undrain(ctx context.Context, node string) error {
	return answered(n.cluster.Undrain(ctx, node))
}

// DrainOf implements admin.Operator.
func (n *node) DrainOf(node string) admin.Drain { return admin.Drain(n.cluster.DrainOf(node)) }

// Remove implements admin.Operator.
func (n *node) Remove(ctx context.Context, node string) error {
	return answered(n.cluster.RemoveNode(ctx, node))
}

// Moves implements admin.Operator.
func (n *node) Moves() []admin.Move {
	moves := []admin.Move{}
	for _, m := range n.cluster.PlannedMoves() {
		moves = append(moves, admin.Move(m))
	}
	return moves
}

// drained sends this node's clients to others, or lets them come again.
func (n *node) drained(on bool, elsewhere string) {
	if on {
		n.gateway.SendAway(n.cfg.Timing.Drain, elsewhere)
	} else {
		n.gateway.Welcome()
	}
}

// CheckDisk implements admin.Operator.
func (n *node) CheckDisk(ctx context.Context) (admin.DiskCheck, error) {
	now, err := disk.Check(ctx, n.cfg.Data)
	return admin.DiskCheck{Node: n.cfg.Node, Now: now, Running: n.window.Judge()}, err
}

// synced notes a durable write.
func (n *node) synced(d time.Duration) {
	n.fsync.observe(d)
	n.window.Add(d)
}

const (
	diskLook = 30 * time.Second // how often the disk is judged
	diskTell = 10 * time.Minute // how often a bad verdict is logged
	diskFew  = 20               // samples, fewer of which say nothing
)

// watchDisk warns when the node's durable writes take too long, until ctx ends.
func (n *node) watchDisk(ctx context.Context) {
	tick := time.NewTicker(diskLook)
	defer tick.Stop()
	var told time.Time // zero: the disk is well
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			r := n.window.Judge()
			switch {
			case r.Bad() && r.Samples >= diskFew && now.Sub(told) >= diskTell:
				told = now
				n.log.Warn("the data folder's disk is slow: "+r.Meaning, "verdict", r.Verdict, "p50", r.P50, "p99", r.P99, "longest", r.Max, "writes", r.Samples)
			case !r.Bad() && !told.IsZero():
				told = time.Time{}
				n.log.Info("the data folder's disk is well again", "p99", r.P99)
			}
		}
	}
}

// openAPI begins to answer operators at the admin address; until the node runs, that it
// is starting.
func (n *node) openAPI(level *slog.LevelVar) error {
	s := &n.cfg.Security
	o := admin.APIOptions{Level: level, Log: n.log}
	if s.AdminTLS() {
		files := mtls.Files{Cert: s.AdminCert, Key: s.AdminKey, CA: s.AdminCA}
		id, err := mtls.Load(files)
		if err != nil {
			return fmt.Errorf("admin-cert: %w", err)
		}
		n.secured.operators = id
		n.watch.Add(n.reloadOperators, files.List()...)
		n.reloadOperators() // they may have changed since they were read
		o.TLS = id.ServerConfig()
	}
	l, err := listenAdmin(s.AdminAddr)
	if err != nil {
		return fmt.Errorf("admin-addr: %w", err)
	}
	n.api = admin.ServeAPI(l, o)
	n.log.Info("operators are answered", "admin", s.AdminAddr, "certificates", s.AdminTLS())
	return nil
}

func (n *node) reloadOperators() {
	changed, err := n.secured.operators.Reload()
	n.reloaded("admin certificate", changed, err)
}

// listenAdmin listens at HOST:PORT or unix:PATH. A socket that a process left behind
// which was killed is taken over; only this user may connect.
func listenAdmin(addr string) (net.Listener, error) {
	path, ok := config.UnixSocket(addr)
	if !ok {
		return net.Listen("tcp", addr)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		c, err := net.Dial("unix", path)
		if err == nil {
			return nil, errors.Join(fmt.Errorf("another process answers at %s", path), c.Close())
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// closeAPI ends the admin API, with what it is at after a moment.
func (n *node) closeAPI() {
	if n.api == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := n.api.Close(ctx); err != nil {
		n.log.Debug("operators' requests were cut short", "error", err)
	}
}
