package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxLine is the greatest length of a line in bytes, its end included.
	maxLine = 10 << 10
	// maxValue is the greatest length in bytes of a value that a client may have
	// chosen. What is longer is cut.
	maxValue = 512
	// maxShort takes its place where a line would be too long all the same: a
	// character can become six when it is escaped.
	maxShort = 64
	// maxTags is how many of a push's tags are named.
	maxTags = 16
	// timeFormat has nine digits always, so that lines sort by their text.
	timeFormat = "2006-01-02T15:04:05.000000000Z07:00"
)

// line is a line of the log. Its names stay as they are: scripts know them.
type line struct {
	Time       string   `json:"time"`
	Event      string   `json:"event"`
	Outcome    string   `json:"outcome,omitempty"`
	Account    string   `json:"account,omitempty"`
	Source     string   `json:"source,omitempty"`
	Key        string   `json:"key,omitempty"`
	Client     string   `json:"client,omitempty"`
	Request    string   `json:"request,omitempty"`
	Instance   string   `json:"instance,omitempty"`
	Repository string   `json:"repository,omitempty"`
	Tag        string   `json:"tag,omitempty"`
	Tags       []string `json:"tags,omitempty"`
	Digest     string   `json:"digest,omitempty"`
	Was        string   `json:"was,omitempty"`
	MediaType  string   `json:"mediaType,omitempty"`
	Size       int64    `json:"size,omitempty"`
	Action     string   `json:"action,omitempty"`
	Subject    string   `json:"subject,omitempty"`
	Reason     string   `json:"reason,omitempty"`
}

// MarshalJSON encodes the event as a line of the log of the only server, without the end
// of the line.
func (e Event) MarshalJSON() ([]byte, error) { return e.marshal("") }

func (e *Event) marshal(instance string) ([]byte, error) {
	for _, limit := range []int{maxValue, maxShort} {
		l := e.line(limit)
		l.Instance = clip(instance, maxShort)
		b, err := json.Marshal(l)
		if err != nil || len(b) < maxLine {
			return b, err
		}
	}
	return nil, fmt.Errorf("an event of more than %d bytes", maxLine)
}

func (e *Event) line(limit int) line {
	cut := func(s string) string { return clip(s, limit) }
	return line{
		Time:       stamp(e.Time),
		Event:      cut(string(e.Kind)),
		Outcome:    cut(string(e.Outcome)),
		Account:    cut(e.Actor.Account),
		Source:     cut(e.Actor.Source),
		Key:        cut(e.Actor.Key),
		Client:     cut(e.Actor.Client),
		Request:    cut(e.Actor.Request),
		Repository: cut(e.Repo),
		Tag:        cut(e.Tag),
		Tags:       clipAll(e.Tags, limit),
		Digest:     cut(e.Digest),
		Was:        cut(e.Was),
		MediaType:  cut(e.Media),
		Size:       e.Size,
		Action:     cut(e.Action),
		Subject:    cut(e.Subject),
		Reason:     cut(e.Reason),
	}
}

// clipAll cuts each value, and the list: where values must be short, it is.
func clipAll(list []string, limit int) (cut []string) {
	most := maxTags
	if limit == maxShort {
		most = 1
	}
	for i, s := range list {
		if i == most {
			return append(cut, fmt.Sprintf("… %d more", len(list)-most))
		}
		cut = append(cut, clip(s, limit))
	}
	return cut
}

// clip cuts s, which then ends with "…", to about limit bytes. What is no UTF-8
// becomes U+FFFD.
func clip(s string, limit int) string {
	if len(s) > limit {
		end := limit
		for end > limit-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// encode returns the event as a line of the log of a server.
func encode(e *Event, instance string) ([]byte, error) {
	b, err := e.marshal(instance)
	return append(b, '\n'), err
}

// stamp is a time as a line has it.
func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }
