package admin

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable prints the status for people.
func (s *Status) WriteTable(w io.Writer) error {
	state := "ready"
	if !s.Ready {
		state = "NOT READY: " + joinOr(s.Missing, "it does not say why")
	}
	sessions, connected := 0, 0
	for _, p := range s.Partitions {
		sessions, connected = sessions+p.Sessions, connected+p.Connected
	}
	fmt.Fprintf(w, "node %s (%s), cluster %s, up %v, %s\n", s.Node, s.Build, orDash(s.ClusterID),
		(time.Duration(s.UptimeMS) * time.Millisecond).Round(time.Second), state)
	fmt.Fprintf(w, "%d client connections here; %d sessions in the partitions held here, %d of them connected\n", s.Connections, sessions, connected)
	for _, d := range s.Degraded {
		fmt.Fprintf(w, "degraded: %s\n", d)
	}

	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\nMEMBER\tADDRESS\tSTATE\tREPLICAS\tLEADS\t")
	for _, m := range s.Members {
		note := ""
		if m.Control {
			note = "leads the control group"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%s\n", m.Name, m.Addr, m.State, m.Partitions, m.Leads, note)
	}
	fmt.Fprintln(tw, "\nPARTITION\tLEADER\tREPLICAS (applied, lag)\tSESSIONS\tQUEUED\tRETAINED")
	for _, p := range s.Partitions {
		counts := "-\t-\t-"
		if p.Local {
			counts = fmt.Sprintf("%d\t%d\t%d", p.Sessions, p.Queued, p.Retained)
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", p.ID, orDash(p.Leader), replicas(p.Replicas), counts)
	}
	return tw.Flush()
}

// replicas prints n1 120, n2 118 (-2), n3 set-aside.
func replicas(list []Replica) string {
	var out []string
	for _, r := range list {
		switch {
		case r.State != "leader" && r.State != "follower" && r.State != "":
			out = append(out, r.Node+" "+r.State)
		case r.Lag > 0:
			out = append(out, fmt.Sprintf("%s %d (-%d)", r.Node, r.Applied, r.Lag))
		default:
			out = append(out, fmt.Sprintf("%s %d", r.Node, r.Applied))
		}
	}
	return joinOr(out, "-")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func joinOr(list []string, empty string) string {
	if len(list) == 0 {
		return empty
	}
	return strings.Join(list, ", ")
}
