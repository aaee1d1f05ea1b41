package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/flotilla-mqtt/flotilla/cmd/node/internal/admin"
)

func (p *program) sessions(ctx context.Context, args []string) error {
	return p.family(ctx, "sessions", "Show, end and delete sessions, on whichever node they are.", []order{
		{name: "list", summary: "list sessions by client id", run: (*program).sessionsList, flags: func(fs *pflag.FlagSet, c *call) {
			fs.StringVar(&c.prefix, "prefix", "", "only client ids that begin so")
			fs.StringVar(&c.state, "state", "", "only connected or offline sessions")
			fs.IntVar(&c.limit, "limit", 0, "how many at most (0: all)")
		}},
		{name: "show", args: []string{"CLIENT"}, summary: "show a session with its subscriptions", run: (*program).sessionsShow},
		{name: "kick", args: []string{"CLIENT"}, summary: "end the connection of a session; the client may come back", run: (*program).sessionsKick},
		{name: "delete", args: []string{"CLIENT"}, summary: "end a session for good, with its subscriptions and messages", run: (*program).sessionsDelete},
	}, args)
}

// pages collects a list page by page. next asks for the page of a size after what came
// before.
func pages[T any](limit int, next func(last *T, size int) (page []T, more bool, err error)) ([]T, error) {
	all := []T{} // in JSON an empty list, not null
	var last *T
	for more := true; more && (limit == 0 || len(all) < limit); {
		size := admin.MaxPage
		if limit > 0 {
			size = min(size, limit-len(all))
		}
		page, again, err := next(last, size)
		if err != nil {
			return nil, err
		}
		all, more = append(all, page...), again && len(page) > 0
		if len(page) > 0 {
			last = &page[len(page)-1]
		}
	}
	return all, nil
}

func (p *program) sessionsList(ctx context.Context, c *call) error {
	list, err := pages(c.limit, func(last *admin.Session, size int) ([]admin.Session, bool, error) {
		q := admin.SessionQuery{FromStart: last == nil, Prefix: c.prefix, State: c.state, Limit: size}
		if last != nil {
			q.After = last.ClientID
		}
		page, err := c.admin.Sessions(ctx, q)
		return page.Sessions, page.More, err
	})
	if err != nil {
		return err
	}
	return p.show(c, list, func(w io.Writer) {
		fmt.Fprintln(w, "CLIENT\tUSER\tMQTT\tNODE\tEXPIRY\tSUBSCRIPTIONS\tQUEUED\tBYTES\tINFLIGHT")
		for i := range list {
			s := &list[i]
			held := fmt.Sprintf("%d\t%d\t%d\t%d", s.Subscriptions, s.Queued, s.QueuedBytes, s.Inflight)
			if s.Ephemeral {
				held = "-\t-\t-\t-" // its node knows; sessions show asks it
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(s.ClientID), orNone(s.Username), s.Protocol, orNone(s.Node), expiry(s), held)
		}
	})
}

func (p *program) sessionsShow(ctx context.Context, c *call) error {
	d, err := c.admin.Session(ctx, c.args[0])
	if err != nil {
		return err
	}
	return p.show(c, d, func(w io.Writer) {
		rows := [][2]string{
			{"client", printable(d.ClientID)}, {"user", orNone(d.Username)}, {"MQTT", d.Protocol}, {"node", orNone(d.Node)},
			{"remote", orNone(d.Remote)}, {"listener", orNone(d.Listener)}, {"keep alive", fmt.Sprintf("%d s", d.KeepAlive)},
			{"partition", fmt.Sprint(d.Partition)}, {"expiry", expiry(&d.Session)}, {"will", yesNo(d.Will)},
			{"queued", fmt.Sprintf("%d messages, %d bytes", d.Queued, d.QueuedBytes)},
			{"in flight", fmt.Sprintf("%d to the client, %d of QoS 2 from it", d.Inflight, d.Inbound)},
			{"dropped", fmt.Sprintf("%d messages, for limits", d.Dropped)},
		}
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\n", r[0], r[1])
		}
		fmt.Fprintf(w, "\nFILTER\tQOS\tOPTIONS\n")
		for _, s := range d.List {
			fmt.Fprintf(w, "%s\t%d\t%s\n", printable(s.Filter), s.QoS, options(s))
		}
	})
}

func (p *program) sessionsKick(ctx context.Context, c *call) error {
	if err := c.admin.Kick(ctx, c.args[0]); err != nil {
		return err
	}
	return p.done(c, "the connection of %s has ended", printable(c.args[0]))
}

func (p *program) sessionsDelete(ctx context.Context, c *call) error {
	if err := c.admin.DeleteSession(ctx, c.args[0]); err != nil {
		return err
	}
	return p.done(c, "the session of %s is deleted", printable(c.args[0]))
}

func (p *program) retained(ctx context.Context, args []string) error {
	return p.family(ctx, "retained", "List and clear retained messages.", []order{
		{name: "list", option: "FILTER", summary: "list retained messages by topic", run: (*program).retainedList, flags: func(fs *pflag.FlagSet, c *call) {
			fs.IntVar(&c.limit, "limit", 0, "how many at most (0: all)")
		}},
		{name: "clear", args: []string{"FILTER"}, summary: "remove those that match, as clients do: subscribers get an empty message for each", run: (*program).retainedClear},
	}, args)
}

func (p *program) retainedList(ctx context.Context, c *call) error {
	filter := "#"
	if len(c.args) > 0 {
		filter = c.args[0]
	}
	list, err := pages(c.limit, func(last *admin.Retained, size int) ([]admin.Retained, bool, error) {
		after := ""
		if last != nil {
			after = last.Topic
		}
		page, err := c.admin.Retained(ctx, filter, after, size)
		return page.Retained, page.More, err
	})
	if err != nil {
		return err
	}
	return p.show(c, list, func(w io.Writer) {
		fmt.Fprintln(w, "TOPIC\tQOS\tBYTES\tEXPIRES IN\tPUBLISHER")
		for _, r := range list {
			expires := "-"
			if r.ExpiresInMS > 0 {
				expires = (time.Duration(r.ExpiresInMS) * time.Millisecond).Round(time.Second).String()
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", printable(r.Topic), r.QoS, r.Bytes, expires, printable(orNone(r.Publisher)))
		}
	})
}

func (p *program) retainedClear(ctx context.Context, c *call) error {
	n, err := c.admin.ClearRetained(ctx, c.args[0])
	if err != nil {
		return err
	}
	return p.show(c, admin.Cleared{Cleared: n}, func(w io.Writer) { fmt.Fprintf(w, "%d retained messages removed\n", n) })
}

// printable is a name that clients chose, without what a terminal would obey.
func printable(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func expiry(s *admin.Session) string {
	switch {
	case s.Ephemeral:
		return "with its connection"
	case s.ExpirySeconds == nil:
		return "never"
	case s.ExpiresInMS > 0:
		return "in " + (time.Duration(s.ExpiresInMS) * time.Millisecond).Round(time.Second).String()
	}
	return "after " + (time.Duration(*s.ExpirySeconds) * time.Second).String()
}

func options(s admin.Subscription) string {
	var out []string
	if s.NoLocal {
		out = append(out, "no local")
	}
	if s.RetainAsPublished {
		out = append(out, "retain as published")
	}
	if s.RetainHandling > 0 {
		out = append(out, fmt.Sprintf("retain handling %d", s.RetainHandling))
	}
	if s.ID > 0 {
		out = append(out, fmt.Sprintf("identifier %d", s.ID))
	}
	return strings.Join(out, ", ")
}
