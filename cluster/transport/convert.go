//lint:file-ignore SA1019 Leader and Candidate are carried as raft's own transport carries them: raft still fills and reads them.

package transport

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/flotilla-mqtt/flotilla/proto/peerpb"
)

func toHeader(h raft.RPCHeader) *peerpb.Header {
	return &peerpb.Header{ProtocolVersion: int32(h.ProtocolVersion), Id: h.ID, Addr: h.Addr}
}

func fromHeader(h *peerpb.Header) raft.RPCHeader {
	return raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersion(h.GetProtocolVersion()),
		ID:              h.GetId(),
		Addr:            h.GetAddr(),
	}
}

// isHeartbeat is raft's own definition (see its NetworkTransport).
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && (a.Addr != nil || a.Leader != nil) &&
		a.PrevLogEntry == 0 && a.PrevLogTerm == 0 &&
		len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

func toAppend(a *raft.AppendEntriesRequest) *peerpb.RaftRequest_Append {
	m := &peerpb.AppendEntries{
		Header:       toHeader(a.RPCHeader),
		Term:         a.Term,
		Leader:       a.Leader,
		PrevLogEntry: a.PrevLogEntry,
		PrevLogTerm:  a.PrevLogTerm,
		LeaderCommit: a.LeaderCommitIndex,
	}
	if n := len(a.Entries); n > 0 {
		entries := make([]peerpb.LogEntry, n) // one allocation for all
		m.Entries = make([]*peerpb.LogEntry, n)
		for i, l := range a.Entries {
			e := &entries[i]
			e.Index, e.Term, e.Type = l.Index, l.Term, uint32(l.Type)
			e.Data, e.Extensions = l.Data, l.Extensions
			if !l.AppendedAt.IsZero() {
				e.AppendedAt = l.AppendedAt.UnixNano()
			}
			m.Entries[i] = e
		}
	}
	return &peerpb.RaftRequest_Append{Append: m}
}

func fromAppend(m *peerpb.AppendEntries) *raft.AppendEntriesRequest {
	a := &raft.AppendEntriesRequest{
		RPCHeader:         fromHeader(m.GetHeader()),
		Term:              m.GetTerm(),
		Leader:            m.GetLeader(),
		PrevLogEntry:      m.GetPrevLogEntry(),
		PrevLogTerm:       m.GetPrevLogTerm(),
		LeaderCommitIndex: m.GetLeaderCommit(),
	}
	if n := len(m.Entries); n > 0 {
		a.Entries = make([]*raft.Log, n)
		for i, e := range m.Entries {
			// Raft's log cache may keep single entries: no shared array here.
			l := &raft.Log{
				Index: e.GetIndex(), Term: e.GetTerm(), Type: raft.LogType(e.GetType()),
				Data: e.GetData(), Extensions: e.GetExtensions(),
			}
			if at := e.GetAppendedAt(); at != 0 {
				l.AppendedAt = time.Unix(0, at)
			}
			a.Entries[i] = l
		}
	}
	return a
}

func toVote(a *raft.RequestVoteRequest) *peerpb.RaftRequest_Vote {
	return &peerpb.RaftRequest_Vote{Vote: &peerpb.RequestVote{
		Header: toHeader(a.RPCHeader), Term: a.Term, Candidate: a.Candidate,
		LastLogIndex: a.LastLogIndex, LastLogTerm: a.LastLogTerm,
		LeadershipTransfer: a.LeadershipTransfer,
	}}
}

func toPreVote(a *raft.RequestPreVoteRequest) *peerpb.RaftRequest_PreVote {
	return &peerpb.RaftRequest_PreVote{PreVote: &peerpb.PreVote{
		Header: toHeader(a.RPCHeader), Term: a.Term,
		LastLogIndex: a.LastLogIndex, LastLogTerm: a.LastLogTerm,
	}}
}

// command turns a request into raft's own type, nil if it has no known body.
// urgent: it goes ahead of queued log entries. vote: it is part of an election.
func command(r *peerpb.RaftRequest) (cmd any, urgent, vote bool) {
	switch b := r.GetBody().(type) {
	case *peerpb.RaftRequest_Append:
		a := fromAppend(b.Append)
		return a, isHeartbeat(a), false
	case *peerpb.RaftRequest_Vote:
		m := b.Vote
		return &raft.RequestVoteRequest{
			RPCHeader: fromHeader(m.GetHeader()), Term: m.GetTerm(), Candidate: m.GetCandidate(),
			LastLogIndex: m.GetLastLogIndex(), LastLogTerm: m.GetLastLogTerm(),
			LeadershipTransfer: m.GetLeadershipTransfer(),
		}, true, true
	case *peerpb.RaftRequest_PreVote:
		m := b.PreVote
		return &raft.RequestPreVoteRequest{
			RPCHeader: fromHeader(m.GetHeader()), Term: m.GetTerm(),
			LastLogIndex: m.GetLastLogIndex(), LastLogTerm: m.GetLastLogTerm(),
		}, true, true
	case *peerpb.RaftRequest_TimeoutNow:
		return &raft.TimeoutNowRequest{RPCHeader: fromHeader(b.TimeoutNow.GetHeader())}, true, true
	default:
		return nil, false, false
	}
}

// response turns raft's answer into a message; id is left to the caller.
func response(resp any, err error) *peerpb.RaftResponse {
	out := &peerpb.RaftResponse{}
	if err != nil {
		out.Refused, out.Error = peerpb.RefuseReason_FAILED, err.Error()
		return out
	}
	switch r := resp.(type) {
	case *raft.AppendEntriesResponse:
		out.Body = &peerpb.RaftResponse_Append{Append: &peerpb.AppendEntriesReply{
			Header: toHeader(r.RPCHeader), Term: r.Term, LastLog: r.LastLog,
			Success: r.Success, NoRetryBackoff: r.NoRetryBackoff,
		}}
	case *raft.RequestVoteResponse:
		out.Body = &peerpb.RaftResponse_Vote{Vote: &peerpb.VoteReply{
			Header: toHeader(r.RPCHeader), Term: r.Term, Peers: r.Peers, Granted: r.Granted,
		}}
	case *raft.RequestPreVoteResponse:
		out.Body = &peerpb.RaftResponse_PreVote{PreVote: &peerpb.VoteReply{
			Header: toHeader(r.RPCHeader), Term: r.Term, Granted: r.Granted,
		}}
	case *raft.TimeoutNowResponse:
		out.Body = &peerpb.RaftResponse_TimeoutNow{TimeoutNow: &peerpb.TimeoutNowReply{
			Header: toHeader(r.RPCHeader),
		}}
	case *raft.InstallSnapshotResponse:
		out.Body = &peerpb.RaftResponse_Snapshot{Snapshot: &peerpb.InstallSnapshotReply{
			Header: toHeader(r.RPCHeader), Term: r.Term, Success: r.Success,
		}}
	default:
		out.Refused, out.Error = peerpb.RefuseReason_FAILED, "unknown kind of answer"
	}
	return out
}

func intoAppend(m *peerpb.AppendEntriesReply, r *raft.AppendEntriesResponse) {
	*r = raft.AppendEntriesResponse{
		RPCHeader: fromHeader(m.GetHeader()), Term: m.GetTerm(), LastLog: m.GetLastLog(),
		Success: m.GetSuccess(), NoRetryBackoff: m.GetNoRetryBackoff(),
	}
}
