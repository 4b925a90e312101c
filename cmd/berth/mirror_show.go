package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/berth-registry/berth/admin"
)

// printMirrorUpstreams prints how mirrors are.
func printMirrorUpstreams(w io.Writer, mirrors []admin.Mirror) error {
	for i, m := range mirrors {
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		row := func(what, text string) { _, _ = fmt.Fprintf(t, "%s\t%s\n", what, text) } // Flush says what goes wrong
		row("mirror", printable(fmt.Sprintf("%s, %s/... of %s", m.Name, m.Prefix, m.Upstream)))
		if m.Available {
			row("upstream", "may be asked; "+mirrorRequests(m.Requests))
		} else {
			row("upstream", fmt.Sprintf("left alone until %s; %s", clock(m.Until), mirrorRequests(m.Requests)))
			row("reason", printable(m.Reason))
		}
		if l := m.RateLimit; l != nil {
			window := ""
			if l.Window > 0 {
				window = " in " + (time.Duration(l.Window) * time.Second).String()
			}
			row("limit", fmt.Sprintf("%d of %d pulls%s are left, as it said at %s", l.Remaining, l.Limit, window, clock(&l.At)))
		}
		row("cache", mirrorCache(m.Cache))
		row("served", mirrorServed(m.Cache))
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// clock is a time of about now.
func clock(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

// mirrorRequests says to a user what came of requests.
func mirrorRequests(r admin.MirrorRequests) string {
	return tallied("requests", "it has not been asked yet", []count{
		{r.OK + r.NotFound, "answered"},
		{r.Refused, "refused (credentials)"},
		{r.Limited, "refused (too many)"},
		{r.Failed, "failed"},
		{r.Rejected, "not sent"},
	})
}

func mirrorCache(c admin.MirrorCache) string {
	text := humanSize(c.Bytes)
	if c.Quota > 0 {
		text += " of " + humanSize(c.Quota)
	}
	text += ", " + countOf(int(c.Manifests), "manifest")
	if c.Keep > 0 {
		text += fmt.Sprintf(", for %s after the last pull", time.Duration(c.Keep)*time.Second)
	}
	if c.Full {
		text += "; over the quota, as all of it is in use"
	}
	return text
}

func mirrorServed(c admin.MirrorCache) string {
	text := tallied("requests", "no requests yet", []count{
		{c.Hits, "from the cache"},
		{c.Stale, "from the cache as the upstream did not answer"},
		{c.Misses, "asked for"},
		{c.Failures, "times the upstream was of no use"},
		{c.Corrupt, "with wrong bytes"},
		{c.Filling, "coming now"},
	})
	if c.Fetched > 0 {
		text += ", " + humanSize(c.Fetched) + " fetched"
	}
	return text
}

// count is how many there are of something.
type count struct {
	n    int64
	what string
}

// tallied says of what there are some, or that there is nothing.
func tallied(of, nothing string, counts []count) string {
	var some []string
	for _, c := range counts {
		if c.n > 0 {
			some = append(some, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if some == nil {
		return nothing
	}
	return of + ": " + strings.Join(some, ", ")
}
